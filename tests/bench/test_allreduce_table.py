from __future__ import annotations

import pytest

from pyhpc.bench.allreduce import Process, Result, Row, Sweep, Timing, sizes_between
from pyhpc.bench.allreduce_table import render, to_json
from pyhpc.errors import InvalidArgument


def result(ranks: int, wrong: int = 0) -> Result:
    fast = Timing(tuple((1e-3, 3e-3 + rank * 1e-3, 2e-3) for rank in range(ranks)), wrong)
    slow = Timing(tuple((2.0, 2.0, 2.0 + rank) for rank in range(ranks)), 0)
    return Result(
        sweep=Sweep(sizes=(1 << 20,), algorithms=("auto", "mpi"), warmup=1, iterations=3),
        processes=tuple(Process(rank, 100 + rank, f"node{rank}") for rank in range(ranks)),
        library="MPICH Version: 5.0.2",
        thread_level="funneled",
        rows=(Row("auto", "ring", 1 << 20, 1 << 18, ranks, "cold", 1e-3, fast, slow),),
        refused={"mpi": "of a reason"},
        line_latency_seconds=61.6e-9,
    )


GOLDEN = """\
# all-reduce, 2 ranks, MPICH Version: 5.0.2, thread level funneled
# warmup iters: 1 iters: 3 validation: 1 data: uniform, seed 1, rewritten before each call
# above 1 MiB and with cold caches fewer iters, at least 3
# time: median of the slowest rank; slow: the rank that was slowest most often
# %bound: of a copy of the vector on all ranks at once, or of a cache line's way between two cores
# a cache line takes 62 ns between two ranks' cores
#  Rank  0 Pid    100 on      node0
#  Rank  1 Pid    101 on      node1
#
# algorithm: auto (ring), caches cold
#                                                                   out-of-place                               in-place
#       size         count      type   redop    root     time   algbw   busbw  %bound  #wrong     time   algbw   busbw  %bound  #wrong   slow
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)                     (us)  (GB/s)  (GB/s)                   rank
     1048576        262144     float     sum      -1   2000.0    0.52    0.52   50.00       0  2000000    0.00    0.00    0.05       0      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 0.262406
#
# mpi: absent because of a reason
"""  # noqa: E501


def test_the_table_is_nccl_tests_table():
    assert [line.rstrip() for line in render(result(2)).splitlines()] == GOLDEN.splitlines()


def test_one_rank_has_no_bus_bandwidth_in_the_table_and_null_in_the_json():
    row = next(line for line in render(result(1)).splitlines() if not line.startswith("#"))
    assert row.split()[7] == row.split()[12] == "n/a"
    assert "Avg bus bandwidth    : n/a" in render(result(1))
    assert to_json(result(1))["contestants"][0]["results"][0]["in_place"]["bus_bw"] is None


def test_a_wrong_element_fails_the_table_and_the_json():
    assert "# Out of bounds values : 3 FAILED" in render(result(2, wrong=3))
    assert to_json(result(2, wrong=3))["contestants"][0]["out_of_bounds"] == {"count": 3, "okay": False}


def test_the_json_has_nccl_tests_keys_and_every_rank_s_raw_seconds():
    row = to_json(result(2))["contestants"][0]["results"][0]
    assert {"size", "count", "type", "redop", "root", "out_of_place", "in_place"} <= set(row)
    assert {"time", "alg_bw", "bus_bw", "nwrong"} <= set(row["out_of_place"])
    assert row["out_of_place"]["seconds"] == [[1e-3, 3e-3, 2e-3], [1e-3, 4e-3, 2e-3]]
    assert row["out_of_place"]["time"] == pytest.approx(2000)


def test_the_slowest_rank_s_time_counts_in_each_iteration():
    timing = Timing(((1.0, 5.0, 1.0), (2.0, 3.0, 4.0)), 0)
    assert timing.slowest == (2.0, 5.0, 4.0)
    assert timing.median == 4.0
    assert timing.slowest_rank == 1


def test_sizes_are_powers_of_the_factor_up_to_the_maximum():
    assert sizes_between(8, 128, 4) == (8, 32, 128)
    assert sizes_between(8, 127) == (8, 16, 32, 64)
    with pytest.raises(InvalidArgument):
        sizes_between(0, 8)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sizes": ()}, "one or more"),
        ({"sizes": (-1,)}, "none negative"),
        ({"iterations": 0}, "iterations is 0"),
        ({"dtype": "complex64"}, "dtype is 'complex64'"),
        ({"op": "xor"}, "op is 'xor'"),
        ({"caches": ("warm", "hot")}, "cache is 'hot'"),
        ({"algorithms": ("ring", "pigeon")}, "algorithm is 'pigeon'; it must be one of auto, .*ring.*, mpi"),
    ],
)
def test_a_sweep_that_cannot_be_measured_is_refused(values, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        Sweep(**({"sizes": (8,)} | values))


@pytest.mark.parametrize(
    ("size", "cache", "turns"),
    [
        (8, "warm", range(-5, 10)),
        (8, "cold", range(-1, 3)),
        (4 << 20, "warm", range(-2, 3)),
        (1 << 20, "warm", range(-5, 10)),
    ],
)
def test_long_vectors_and_cold_caches_have_fewer_iterations_but_three(size, cache, turns):
    assert Sweep(sizes=(8,), warmup=5, iterations=10).turns(size, cache) == turns
    assert list(Sweep(sizes=(8,), warmup=0, iterations=1).turns(size, cache)) == [0]
