"""These tests run on every rank of an MPI world: `mpiexec -n P python -m pytest tests/mpi`, P = 1 … 4.

Plain `pytest` collects none of them; tests/test_mpi_ranks.py starts them. The first failure of any rank ends the whole
job with its report, as the other ranks may be waiting for the failed one; a test that hangs does so after a minute with
all stacks.
"""

from __future__ import annotations

import faulthandler
import sys

import pytest

from pyhpc import comm
from pyhpc.kernels.allreduce_plan import engine
from pyhpc.kernels.schedules.engine import Engine
from pyhpc.kernels.schedules.rule import Row, Rule

collect_ignore_glob = [] if comm.launched() else ["test_*.py"]

_HANG_SECONDS = 60


def pytest_exception_interact(node, report):
    sys.__stderr__.write(f"rank {comm.world().rank}: {node.nodeid}\n{report.longreprtext}\n")
    sys.__stderr__.flush()
    comm.world().Abort(1)


@pytest.fixture(autouse=True)
def hang_guard():
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def world():
    return comm.world()


@pytest.fixture
def short_pieces(world):
    """Vectors of some ten thousand bytes travel in many pieces and strips, as long ones do otherwise."""
    channel = comm.channel(world)
    playing = engine(channel)
    usual = playing.rule
    playing.rule = Rule((Row(0, "staging", 1024, 20_000),), lines_bytes=256, network_bytes=4096)
    channel.kept = {Engine: playing}
    yield
    playing.rule = usual
    channel.kept = {Engine: playing}
