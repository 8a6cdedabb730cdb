from __future__ import annotations

import functools
import itertools
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhpc.errors import InvalidArgument
from pyhpc.kernels import invariant
from pyhpc.kernels.allreduce_problem import OPS
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF

FLOATS = ("float64", "float32", "float16", "bfloat16")


def all_reduce(parts, dtype, op):
    """The result of ranks (threads) that give these rows each; they must agree to the bit."""
    together, given, results = threading.Barrier(len(parts), timeout=30), [None] * len(parts), [None] * len(parts)

    def work(rank):
        def factory(elements, dtype, op):
            def in_place(vector):
                assert (vector.shape, vector.dtype) == ((elements,), DTYPES[dtype])
                given[rank] = vector.copy()
                together.wait()
                total = functools.reduce(OPS[op], given)
                together.wait()
                vector[...] = total

            return in_place

        elements = parts[rank].shape[1]
        out = np.empty(elements, DTYPES[dtype])
        invariant.plan(elements, dtype, op, factory)(parts[rank], out)
        results[rank] = out

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.tobytes() for result in results}) == 1
    return results[0]


def split(rows, cuts):
    """The rows dealt to ranks, one at least each."""
    edges = [0, *sorted(set(cuts)), len(rows)]
    return [rows[low:high] for low, high in itertools.pairwise(edges) if high > low]


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 2.2e-308, 6e-8, 65504.0, 3.4e38, 1.7976931348623157e308]


@st.composite
def contributions(draw):
    """Rows of floats of every kind and scale; an order of them; how they are dealt to ranks, twice."""
    dtype = draw(st.sampled_from(FLOATS))
    rows, elements = draw(st.integers(1, 7)), draw(st.integers(0, 5))
    value = st.one_of(st.floats(-4, 4), st.floats(width=64), st.sampled_from(SPECIAL))
    values = draw(st.lists(value, min_size=rows * elements, max_size=rows * elements))
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).reshape(rows, elements).astype(DTYPES[dtype])
    cuts = st.lists(st.integers(1, rows), max_size=4)
    return dtype, array, draw(st.permutations(range(rows))), draw(cuts), draw(cuts)


@settings(max_examples=200, deadline=None)
@given(contributions(), st.sampled_from(["sum", "min", "max"]))
def test_the_bits_depend_on_neither_the_order_of_the_ranks_nor_on_how_many_they_are(drawn, op):
    dtype, rows, order, some_cuts, other_cuts = drawn
    once = all_reduce(split(rows, some_cuts), dtype, op)
    again = all_reduce(split(rows[list(order)], other_cuts), dtype, op)
    assert once.tobytes() == again.tobytes()


@settings(max_examples=200, deadline=None)
@given(contributions())
def test_sums_are_as_near_to_the_exact_sum_as_the_head_of_the_file_says(drawn):
    dtype, rows, _, cuts, _ = drawn
    result = all_reduce(split(rows, cuts), dtype, "sum").astype(np.float64)
    largest_finite = float(np.finfo(np.float64).max if dtype == "float64" else finite(dtype))
    for column, found in zip(rows.astype(np.float64).T, result, strict=True):
        if not np.isfinite(column).all():
            with np.errstate(invalid="ignore"):
                np.testing.assert_equal(found, column.sum())
            continue
        halves = math.fsum(column / 4)  # no overflow on the way
        allowed = (
            UNIT_ROUNDOFF[dtype] * (1 + 2.0**-15) * abs(halves) + len(column) * 2.0**-42 * np.abs(column / 4).max()
        )
        if abs(halves) + allowed >= largest_finite / 4:
            continue  # rounds to infinity, or to the largest number
        assert abs(found / 4 - halves) <= allowed + tiny(dtype)


def finite(dtype):
    import ml_dtypes

    return ml_dtypes.finfo(DTYPES[dtype]).max


def tiny(dtype):
    """Half the distance of subnormal numbers: what rounding costs below the smallest normal one."""
    import ml_dtypes

    return float(ml_dtypes.finfo(DTYPES[dtype]).smallest_subnormal)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_random_numbers_are_the_exact_sums_rounded_once(dtype):
    random = np.random.default_rng(1)
    rows = (random.standard_normal((9, 3000)) * np.exp2(random.integers(-9, 9, (9, 3000)))).astype(DTYPES[dtype])
    exact = np.array([math.fsum(column) for column in rows.astype(np.float64).T]).astype(DTYPES[dtype])
    found = all_reduce(split(rows, [2, 3]), dtype, "sum")
    # bfloat16 is rounded by way of float32, here and there alike.
    assert np.count_nonzero(found.view(np.uint8) != exact.view(np.uint8)) == 0


def test_float64_sums_carry_between_their_slices_exactly():
    random = np.random.default_rng(2)
    for count in (3, 100, 3000):
        rows = random.uniform(0.5, 1, (count, 50)) * 2.0 ** random.integers(-60, 1, (count, 50))
        exact = np.array([math.fsum(column) for column in rows.T])
        np.testing.assert_array_equal(all_reduce([rows], "float64", "sum"), exact)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sum_whose_parts_overflow_is_finite_where_the_whole_is(dtype):
    largest = np.array(finite(dtype), DTYPES[dtype])
    rows = np.array([largest, largest, -largest, -largest, 1]).astype(DTYPES[dtype]).reshape(5, 1)
    expected = 1.0 if dtype != "float64" and dtype != "float32" and dtype != "bfloat16" else 0.0
    # 1 is below the unit of rounding where the numbers reach 10^38.
    assert float(all_reduce([rows], dtype, "sum")[0]) == expected
    assert float(all_reduce([rows[:2]], dtype, "sum")[0]) == np.inf
    assert float(all_reduce([rows[2:4]], dtype, "sum")[0]) == -np.inf


@pytest.mark.parametrize("dtype", FLOATS)
def test_as_many_contributions_as_are_allowed_do_not_wrap(dtype):
    value = np.array([np.nextafter(np.float32(2), np.float32(0))]).astype(DTYPES[dtype])
    ranks = 1 << 6  # all with the same contributions: their largest magnitude is everybody's

    def factory(elements, dtype, op):
        def in_place(vector):
            if op == "sum":
                exact = [int(element) * ranks for element in vector]
                assert max(map(abs, exact)) < 1 << 63
                vector[...] = exact

        return in_place

    out = np.empty(1, DTYPES[dtype])
    invariant.plan(1, dtype, "sum", factory)(np.full((invariant.MOST_CONTRIBUTIONS // ranks, 1), value), out)
    with np.errstate(over="ignore"):
        assert out[0] == np.array(float(value[0]) * 2**20).astype(DTYPES[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_add_to_plus_zero_and_order_below_and_above_each_other(dtype):
    for zeros in ([0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]):
        rows = np.array(zeros, DTYPES[dtype]).reshape(2, 1)
        assert not np.signbit(all_reduce([rows], dtype, "sum").astype(float))
        assert np.signbit(all_reduce([rows], dtype, "min").astype(float))
        assert np.signbit(all_reduce([rows], dtype, "max").astype(float)) == np.signbit(zeros).all()


@pytest.mark.parametrize("op", ["sum", "min", "max"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_nan_becomes_the_same_nan(dtype, op):
    bits = np.dtype(f"u{DTYPES[dtype].itemsize}")
    payload, one = np.array([np.nan], DTYPES[dtype]).view(bits) | bits.type(1), np.ones((1, 1), DTYPES[dtype])
    negative = payload | bits.type(1 << (8 * bits.itemsize - 1))
    for nan in (payload, negative):
        result = all_reduce([one, nan.view(DTYPES[dtype]).reshape(1, 1)], dtype, op)
        assert result.tobytes() == np.array([np.nan], DTYPES[dtype]).tobytes()


@pytest.mark.parametrize("dtype", ["int8", "uint64", "int32"])
@pytest.mark.parametrize("op", OPS)
def test_integers_wrap_in_any_partition(dtype, op):
    random = np.random.default_rng(3)
    rows = np.frombuffer(random.bytes(6 * 1000 * 8), DTYPES[dtype])[: 6 * 1000].reshape(6, 1000)
    expected = OPS[op].reduce(rows, axis=0, dtype=rows.dtype)
    for cuts in ([], [1, 4], [1, 2, 3, 4, 5]):
        np.testing.assert_array_equal(all_reduce(split(rows, cuts), dtype, op), expected)


@pytest.mark.parametrize("elements", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 2 << 16])
@pytest.mark.parametrize("op", ["sum", "max"])
def test_long_vectors_are_combined_block_by_block(elements, op):
    random = np.random.default_rng(elements)
    rows = random.standard_normal((2, elements), np.float32)
    expected = OPS[op](*rows.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(all_reduce([rows[:1], rows[1:]], "float32", op), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_product_of_floats_is_refused_with_the_reason(dtype):
    with pytest.raises(InvalidArgument, match=f"a product of {dtype} has no invariant order: .*repeatable"):
        invariant.plan(3, dtype, "prod", lambda *_: lambda vector: None)
