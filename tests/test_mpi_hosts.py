"""Hosts with a network between them: namespaces joined by slow links, an MPI job over TCP across them."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "benchmarks" / "network_hosts.py"

PROGRAM = """
import socket
import numpy as np
from pyhpc import allreduce, allreduce_buffer, comm
from pyhpc.kernels.allreduce_plan import engine
from pyhpc.kernels.schedules.schedule import algorithms

world = comm.world()
p, rank = world.size, world.rank
playing = engine(comm.channel(world))
hosts = world.allgather(socket.gethostname())
assert playing.local_ranks == [other for other in range(p) if hosts[other] == hosts[rank]]
assert playing.one_node == (len(set(hosts)) == 1)
for elements in (0, 1003, 100_000):
    rows = [np.random.default_rng(other).random(elements, np.float32) for other in range(p)]
    exact = sum(row.astype(np.float64) for row in rows)
    for name in (*algorithms(), "mpi", "auto"):
        for order in ("fast", "repeatable", "invariant") if name == "auto" else ("fast",):
            out = allreduce(rows[rank], algorithm=name, order=order)
            assert np.abs(out - exact).max(initial=0) < 1e-5, (name, order, elements)
            assert name == "mpi" or len(set(world.allgather(out.tobytes()))) == 1, (name, order, elements)
shared = allreduce_buffer(1003)
shared[:] = rank
assert (allreduce(shared, out=shared) == sum(range(p))).all()
if rank == 0:
    print(f"{len(set(hosts))} hosts, {sorted(set(hosts))}: right", flush=True)
"""


def tool():
    spec = importlib.util.spec_from_file_location("network_hosts", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network():
    module = tool()
    reason = module.absence()
    if reason is not None:
        pytest.skip(f"no hosts can be made: {reason}")
    return module


@pytest.mark.parametrize(("hosts", "ranks"), [(3, 1), (2, 2)])
def test_ranks_on_several_hosts_all_reduce_over_tcp_by_every_algorithm_and_order(network, tmp_path, hosts, ranks):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    status, said = network.start([str(program)], hosts, ranks, "2gbit", timeout_seconds=60)
    assert status == 0, said
    assert f"{hosts} hosts, {[f'host{number}' for number in range(1, hosts + 1)]}: right" in said


def test_a_rank_that_dies_on_another_host_ends_the_job_and_no_namespace_stays(network, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from pyhpc import comm\nworld = comm.world()\nif world.rank == 1:\n    world.Abort(7)\nworld.Barrier()"
    )
    status, _ = network.start([str(program)], 2, 1, "2gbit", timeout_seconds=60)
    assert status != 0
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"pyhpc{network.os.getpid()}-" not in left
