"""Hosts with a network between them: namespaces joined by slow links, an MPI job over TCP across them."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "benchmarks" / "network_hosts.py"

PROGRAM = Path(__file__).parent / "mpi" / "every_algorithm.py"


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
def test_ranks_on_several_hosts_all_reduce_over_tcp_by_every_algorithm_and_order(network, hosts, ranks):
    status, said = network.start([str(PROGRAM)], hosts, ranks, "2gbit", timeout_seconds=60)
    assert status == 0, said
    assert f"{hosts * ranks} ranks on {hosts} nodes, MPICH" in said


def test_a_rank_that_dies_on_another_host_ends_the_job_and_no_namespace_stays(network, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from pyhpc import comm\nworld = comm.world()\nif world.rank == 1:\n    world.Abort(7)\nworld.Barrier()"
    )
    status, _ = network.start([str(program)], 2, 1, "2gbit", timeout_seconds=60)
    assert status != 0
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"pyhpc{network.os.getpid()}-" not in left
