from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pyhpc.errors import ConfigError
from pyhpc.kernels import allreduce_problem
from pyhpc.kernels.allreduce import KERNEL, AllreduceProblem
from pyhpc.kernels.allreduce_problem import BLOCK, OPS, algbw, busbw
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.schedules.schedule import algorithms


def fold(problem, order):
    """The contributions combined in another order, in the dtype itself."""
    rows = [problem.contribution(rank) for rank in order]
    result = rows[0]
    for row in rows[1:]:
        result = OPS[problem.op](result, row)
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_the_tolerance_holds_in_every_order_and_a_wrong_element_is_found(dtype, op):
    problem = AllreduceProblem(333, dtype, op, 5)
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 1, 3)):
        result = fold(problem, order)
        check = problem.verify(result, problem.inputs())
        assert check.passed, check.first_wrong
        assert check.elements == 333
        result.view(np.uint8)[100 * result.itemsize + result.itemsize - 1] ^= 0x40  # a high bit of element 100
        spoilt = problem.verify(result, problem.inputs())
        assert spoilt.wrong == 1
        assert "result[100]" in spoilt.first_wrong


@pytest.mark.parametrize("missing", range(3))
def test_a_result_without_one_rank_s_contribution_is_wrong(missing):
    problem = AllreduceProblem(1000, "float32", "sum", 3)
    result = fold(problem, [rank for rank in range(3) if rank != missing])
    assert problem.verify(result, problem.inputs()).wrong > 990


def test_one_unit_of_a_large_int64_is_seen():
    problem = AllreduceProblem(10, "int64", "sum", 2)
    result = fold(problem, (0, 1))
    result[3] += 1
    assert problem.verify_share(result).wrong == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_small_integers_are_summed_exactly_and_the_tolerance_is_zero(dtype):
    problem = AllreduceProblem(1000, dtype, "sum", 8, "integers")
    result = fold(problem, range(8))
    assert problem.verify(result, problem.inputs()).passed
    result[7] = np.nextafter(np.float32(result[7]), np.float32(100)) if dtype == "float32" else result[7] + 1
    assert problem.verify(result, problem.inputs()).wrong == 1


def test_the_output_is_poisoned():
    problem = AllreduceProblem(5)
    assert problem.verify(problem.output(), problem.inputs()).wrong == 5


def test_a_contribution_is_the_same_wherever_it_is_made_and_starts_alike_at_every_length():
    long, short = AllreduceProblem(2 * BLOCK + 7, ranks=4), AllreduceProblem(BLOCK + 1, ranks=9)
    np.testing.assert_array_equal(long.contribution(3)[:BLOCK], short.contribution(3)[:BLOCK])
    np.testing.assert_array_equal(long.contribution(2), long.inputs()["contributions"][2])
    assert not np.array_equal(long.contribution(0)[:BLOCK], long.contribution(1)[:BLOCK])
    assert not np.array_equal(long.contribution(0)[:BLOCK], long.contribution(0)[BLOCK : 2 * BLOCK])
    other = dataclasses.replace(long, seed=2)
    assert not np.array_equal(long.contribution(0), other.contribution(0))


def test_the_ranks_shares_cover_every_element_once_and_find_a_fault_wherever_it_is(monkeypatch):
    monkeypatch.setattr(allreduce_problem, "WHOLE_UP_TO", 1000)
    monkeypatch.setattr(allreduce_problem, "BLOCK", 100)
    problem = AllreduceProblem(1050, "float32", "sum", 3)
    result = fold(problem, range(3))
    assert sum(problem.verify_share(result, rank).elements for rank in range(3)) == 1050
    for place in (0, 99, 100, 555, 1049):
        spoilt = result.copy()
        spoilt[place] += 1
        assert sum(problem.verify_share(spoilt, rank).wrong for rank in range(3)) == 1


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_bus_bandwidth_is_algorithm_bandwidth_times_2_p_minus_1_over_p(ranks, factor):
    assert algbw(1 << 30, 0.5) == 2 << 30
    assert busbw(1 << 30, 0.5, ranks) == pytest.approx(factor * (2 << 30))
    problem = AllreduceProblem(1000, "float64", ranks=ranks)
    assert problem.busbw(1e-3) == pytest.approx(factor * 8e6)
    assert problem.algbw(1e-3) == pytest.approx(8e6)


def test_one_rank_has_no_bus_bandwidth():
    assert busbw(8, 1.0, 1) is None
    assert AllreduceProblem(8, ranks=1).busbw(1.0) is None


def test_the_work_model_counts_each_operation_and_each_operand_once():
    problem = AllreduceProblem(1000, "bfloat16", "sum", 4)
    assert (problem.flops, problem.bytes, problem.message_bytes) == (3000, 10_000, 2000)


@pytest.mark.parametrize(
    "values",
    [
        {"elements": -1},
        {"elements": 1, "ranks": 0},
        {"elements": 1, "dtype": "complex64"},
        {"elements": 1, "op": "xor"},
    ],
)
def test_impossible_problems_are_refused(values):
    with pytest.raises(ConfigError):
        KERNEL.problem(values)


def test_algorithms_and_native_targets_are_variants_and_say_what_they_need():
    names = [variant.name for variant in KERNEL.variants()]
    assert {*algorithms(), "generic", "numba"} <= set(names)
    assert KERNEL.variant("ring").reject(AllreduceProblem(1, ranks=1)) == "one rank has nothing to exchange"
    assert "needs 64 MPI ranks" in KERNEL.variant("ring").reject(AllreduceProblem(1, ranks=64))
    assert KERNEL.best(AllreduceProblem(100, ranks=64)).name not in algorithms()
