from __future__ import annotations

import json

import numpy as np
import pytest

from pyhpc.bench import allreduce_contest
from pyhpc.bench.allreduce import Sweep
from pyhpc.bench.allreduce_contest import benchmark
from pyhpc.bench.allreduce_table import render, to_json
from pyhpc.errors import InvalidArgument

SWEEP = Sweep(sizes=(0, 4, 3000), algorithms=("auto", "ring", "window", "mpi"), warmup=1, iterations=3)


def test_the_benchmark_times_and_verifies_every_contestant_at_every_size(world):
    result = benchmark(SWEEP)
    assert [(row.algorithm, row.size_bytes) for row in result.rows] == [
        (name, size) for size in SWEEP.sizes for name in SWEEP.algorithms
    ]
    assert result.wrong == 0
    for row in result.rows:
        for timing in (row.out_of_place, row.in_place):
            assert np.shape(timing.seconds) == (world.size, SWEEP.iterations)
            assert min(timing.slowest) > 0
            assert (row.busbw(timing) is None) == (world.size == 1)
    assert len(set(world.allgather(render(result)))) == 1
    json.dumps(to_json(result), allow_nan=False)
    assert [process.rank for process in result.processes] == list(range(world.size))


def test_what_cannot_take_the_dtype_is_listed_with_the_reason(world):
    result = benchmark(Sweep(sizes=(8,), dtype="bfloat16", algorithms=("ring", "mpi"), warmup=0, iterations=1))
    assert result.refused == {"mpi": "MPI_Allreduce has no bfloat16"}
    assert "# mpi: absent because MPI_Allreduce has no bfloat16" in render(result)
    assert {row.algorithm for row in result.rows} == {"ring"}


def test_an_unknown_algorithm_is_refused_on_every_rank(world):
    with pytest.raises(InvalidArgument, match="algorithm is 'pigeon'"):
        benchmark(Sweep(sizes=(8,), algorithms=("pigeon",), warmup=0, iterations=1))


@pytest.mark.parametrize("faulty_call", [0, 5])
def test_one_flipped_bit_in_one_result_of_one_rank_is_counted(world, monkeypatch, faulty_call):
    calls = []
    honest = allreduce_contest.allreduce

    def flipping(x, comm, op, algorithm, **options):
        out = honest(x, comm, op, algorithm, **options)
        if len(calls) == faulty_call and world.rank == world.size - 1:
            out.view(np.uint8)[17] ^= 64
        calls.append(1)
        return out

    monkeypatch.setattr(allreduce_contest, "allreduce", flipping)
    result = benchmark(Sweep(sizes=(400,), algorithms=("ring",), warmup=0, iterations=4))
    assert result.wrong > 0
    assert "FAILED" in render(result)
