from __future__ import annotations

import math

import numpy as np
import pytest

from pyhpc import AllReduce, allreduce, allreduce_buffer, comm
from pyhpc.errors import InvalidArgument
from pyhpc.kernels.data import DTYPES

MPI = comm.mpi()
FLOATS = ("float64", "float32", "float16", "bfloat16")
PARTS = 8  # contributions, dealt to however many ranks there are


def contributions(dtype, elements=333):
    """The same on every rank: numbers of many scales, some infinite or not numbers."""
    random = np.random.default_rng(7)
    rows = random.standard_normal((PARTS, elements)) * np.exp2(random.integers(-12, 6, (PARTS, elements)))
    rows[random.integers(0, PARTS, 9), random.integers(0, elements, 9)] = [np.inf, -np.inf, np.nan] * 3
    rows[:, 5], rows[:, 6] = -0.0, [0.0, -0.0] * (PARTS // 2)
    return rows.astype(DTYPES[dtype])


def dealt(world, rows):
    """This rank's share: every p-th row, of a different number of rows on the ranks."""
    return rows[world.rank :: world.size]


def in_one_process(rows, op):
    return allreduce(rows, MPI.COMM_SELF, op, order="invariant", axis=0)


@pytest.mark.parametrize("op", ["sum", "min", "max"])
@pytest.mark.parametrize("algorithm", ["ring", "recursive_doubling", "auto", "mpi"])
@pytest.mark.parametrize("dtype", [*FLOATS, "int32"])
def test_the_invariant_order_gives_the_bits_that_one_rank_gives_alone(world, dtype, algorithm, op):
    rows = contributions(dtype) if dtype in FLOATS else np.arange(PARTS * 333, dtype=dtype).reshape(PARTS, 333) * 99
    result = allreduce(dealt(world, rows), op=op, algorithm=algorithm, order="invariant", axis=0)
    assert result.tobytes() == in_one_process(rows, op).tobytes()


@pytest.mark.any_world
def test_the_invariant_order_does_not_depend_on_the_order_of_the_ranks(world):
    rows = contributions("float32")
    backwards = world.Split(0, -world.rank)
    own = dealt(world, rows)[0]
    assert allreduce(own, order="invariant").tobytes() == allreduce(own, backwards, order="invariant").tobytes()
    backwards.Free()


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_invariant_sum_is_the_exact_sum_rounded_once(world, dtype):
    rows = np.random.default_rng(9).uniform(-1, 1, (world.size, 2000)).astype(DTYPES[dtype])
    exact = np.array([math.fsum(column) for column in rows.astype(np.float64).T]).astype(DTYPES[dtype])
    x = rows[world.rank].copy()
    result = allreduce(x, order="invariant", out=x)
    assert result is x
    assert np.count_nonzero(x != exact) == 0


def test_fast_and_repeatable_orders_give_the_same_bits_again_and_on_all_ranks(world):
    x = np.random.default_rng(world.rank).standard_normal(5000).astype(np.float32)
    for order in ("fast", "repeatable"):
        results = {allreduce(x, order=order).tobytes() for _ in range(3)}
        assert len(results) == 1
        assert len(set(world.allgather(results.pop()))) == 1


def test_what_an_order_cannot_give_is_refused_with_the_reason(world):
    with pytest.raises(InvalidArgument, match="order is 'exact'; it must be one of fast, repeatable, invariant"):
        allreduce(np.ones(3), order="exact")
    with pytest.raises(InvalidArgument, match="a product of float64 has no invariant order"):
        allreduce(np.ones(3), op="prod", order="invariant")
    with pytest.raises(InvalidArgument, match="an MPI library promises no repeatable order"):
        allreduce(np.ones(3), algorithm="mpi", order="repeatable")
    with pytest.raises(InvalidArgument, match="several contributions a rank need 'invariant'"):
        allreduce(np.ones((2, 3)), axis=0)
    with pytest.raises(InvalidArgument, match="axis must be None, or 0"):
        allreduce(np.ones((0, 3)), order="invariant", axis=0)
    with pytest.raises(InvalidArgument, match=rf"{world.size} ranks may give {2**20 // world.size} each"):
        allreduce(np.ones((2**20 // world.size + 1, 1), np.int8), order="invariant", axis=0)


def test_a_plan_is_made_once_and_called_with_many_arrays(world):
    with AllReduce(((3, 4), "float32"), op="max") as largest:
        for turn in range(5):
            x = np.full((3, 4), world.rank * turn, np.float32)
            out = np.empty_like(x)
            assert largest(x, out) is out
            assert (out == (world.size - 1) * turn).all()
            assert largest(x, x) is x
            assert (largest(x.T.copy().reshape(3, 4)) == out).all()
    with pytest.raises(InvalidArgument, match="was closed"):
        largest(x)


def test_a_plan_of_the_invariant_order_takes_any_number_of_contributions(world):
    rows = contributions("float64")
    plan = AllReduce(dealt(world, rows), order="invariant", axis=0)
    assert plan(dealt(world, rows)).tobytes() == in_one_process(rows, "sum").tobytes()
    mine = dealt(world, rows[:4]) if world.rank < 4 else rows[:0]
    if world.size <= 4:
        assert plan(mine).tobytes() == in_one_process(rows[:4], "sum").tobytes()


def test_a_plan_refuses_what_it_was_not_made_for(world):
    plan = AllReduce(np.ones(4))
    with pytest.raises(InvalidArgument, match="x has 5 elements of float64; this AllReduce was made for 4 of float64"):
        plan(np.ones(5))
    with pytest.raises(InvalidArgument, match="x has 4 elements of int64"):
        plan(np.ones(4, np.int64))
    assert (plan(np.ones((2, 2))) == world.size).all()
    for like in (3, ((2,), "complex64"), ((-1,), "float32"), ("a", "b")):
        with pytest.raises(InvalidArgument, match="like"):
            AllReduce(like)
    if world.size > 1:
        with pytest.raises(InvalidArgument, match="the ranks disagree: rank 0 asks for 4 elements"):
            AllReduce(np.ones(4 + (world.rank == 1)))


def test_freeing_the_communicator_ends_its_plans(world):
    other = world.Dup()
    plan = AllReduce(np.ones(4), other)
    assert plan(np.ones(4))[0] == world.size
    other.Free()
    with pytest.raises(InvalidArgument, match="closed, or its communicator was freed"):
        plan(np.ones(4), np.ones(4))


@pytest.mark.any_world
@pytest.mark.parametrize("elements", [0, 1, 1000, 100_003])
def test_shared_buffers_are_reduced_like_others_in_any_pairing(world, elements):
    rows = np.random.default_rng(5).standard_normal((world.size, elements)).astype(np.float32)
    expected = allreduce(rows[world.rank].copy()).tobytes()
    shared, target = (allreduce_buffer(elements) for _ in range(2))
    assert not shared.any()
    own, out = rows[world.rank].copy(), np.empty(elements, np.float32)
    shared[...] = own
    for x, y in ((shared, target), (own, target), (shared, out)):
        assert allreduce(x, out=y) is y
        assert y.tobytes() == expected
    assert allreduce(shared, out=shared).tobytes() == expected


def test_a_shared_buffer_of_an_impossible_kind_is_refused(world):
    for shape, dtype in ((-1, "float32"), (3, "complex64"), ("x", "float32")):
        with pytest.raises(InvalidArgument, match="like is"):
            allreduce_buffer(shape, dtype)
