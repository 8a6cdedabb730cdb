"""Runs tests/mpi on worlds of 1, 2, 3 and 4 ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyhpc import comm

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300
# The machine may be busy, and 4 ranks outnumber the cores of a small one: let MPICH yield instead of spin.
YIELDING = {"MPIR_CVAR_DEVICE_COLLECTIVES": "none", "MPIR_CVAR_POSIX_POLL_FREQUENCY": "1", "OMP_NUM_THREADS": "1"}

# Not `-m pytest`, which would import the source tree instead of the installed package. A folder of its own for each
# rank, because pytest's clean-up does not expect others at the same work.
PROGRAM = """
import sys, tempfile, pytest
del sys.path[0]
with tempfile.TemporaryDirectory() as place:
    status = pytest.main([*sys.argv[1:], "--basetemp", place])
sys.exit(status)
"""


@pytest.mark.skipif(comm.mpiexec() is None, reason=f"there is no mpiexec: {comm.INSTALL}")
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_mpi_tests_pass_on_every_rank(ranks):
    words = [
        sys.executable,
        "-c",
        PROGRAM,
        "-q",
        "-p",
        "no:cacheprovider",
        "--capture=sys",
        str(ROOT / "tests" / "mpi"),
    ]
    job = subprocess.Popen(
        [*comm.mpiexec_command(ranks), *words],
        cwd=ROOT,
        env=os.environ | YIELDING,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = job.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
    assert job.returncode == 0, said
    assert said.count(" passed") == ranks, said
