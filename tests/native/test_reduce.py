"""The local reduction equals NumPy's bit for bit (16-bit floats: NumPy's in float32, rounded), wherever arrays lie."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pyhpc.errors import InvalidArgument
from pyhpc.native import cpu

REDUCE = cpu().allreduce
VARIANTS = [name for name, refusal in REDUCE.variants() if not refusal]
OPERATIONS = {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(name) for name in ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"]] + [BFLOAT16]
SIZES = (0, 1, 7, 31, 64, 65, 257, 1031)
SIXTEEN_BIT = (np.dtype(np.float16), BFLOAT16)


def expected(op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        if a.dtype in SIXTEEN_BIT:
            return OPERATIONS[op](a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
        return OPERATIONS[op](a, b)


def random_bits(dtype: np.dtype, size: int, seed: int) -> np.ndarray:
    """Every bit pattern, so NaN, infinities and subnormals too."""
    return np.random.default_rng(seed).integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)


def assert_same(result: np.ndarray, wanted: np.ndarray) -> None:
    """Equal bits, but any NaN for a NaN, and either zero for a zero (min and max of +0 and -0 may be either)."""
    bits = np.dtype(f"u{result.dtype.itemsize}")
    either = (result == 0) & (wanted == 0)
    if result.dtype.kind not in "iu":
        either |= np.isnan(result) & np.isnan(wanted)
    np.testing.assert_array_equal(result.view(bits)[~either], wanted.view(bits)[~either])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPERATIONS)
def test_every_bit_pattern_gives_numpys_result(variant, dtype, op):
    for seed, size in enumerate(SIZES):
        a, b = random_bits(dtype, size, seed), random_bits(dtype, size, seed + 100)
        wanted = expected(op, a, b)
        out = random_bits(dtype, size, 7)
        REDUCE.reduce(a, b, out, op, 1, variant)
        assert_same(out, wanted)
        for target in (0, 1):  # in place: out is a, out is b
            pair = [a.copy(), b.copy()]
            REDUCE.reduce(*pair, pair[target], op, 1, variant)
            assert pair[target].tobytes() == out.tobytes()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", SIXTEEN_BIT, ids=str)
def test_every_16_bit_float_is_widened_and_rounded_right(variant, dtype):
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(dtype)
    one, tiny = np.ones_like(every), np.full_like(every, dtype.type(2.0**-24))
    out = np.empty_like(every)
    for op, other in (("prod", one), ("sum", tiny), ("sum", one), ("prod", every), ("min", one), ("max", one)):
        REDUCE.reduce(every, other, out, op, 1, variant)
        wanted = expected(op, every, other)
        assert_same(out, wanted)
        nan = np.isnan(wanted.astype(np.float32))
        quiet = 0x0200 if dtype == np.float16 else 0x0040
        assert (out.view(np.uint16)[nan] & quiet).all(), "a NaN must come out quiet"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [np.dtype("f8"), np.dtype("f2"), np.dtype("i1")], ids=str)
def test_nothing_outside_out_is_written_at_any_offset(variant, dtype):
    for offset in range(0, 65):
        size = 200 + offset % 3
        a, b = random_bits(dtype, size + 80, 1)[3 : 3 + size], random_bits(dtype, size + 80, 2)[5 : 5 + size]
        whole = np.full(size + 80, 77, dtype)
        REDUCE.reduce(a, b, whole[offset : offset + size], "max", 1, variant)
        assert_same(whole[offset : offset + size], expected("max", a, b))
        assert (whole[:offset] == 77).all()
        assert (whole[offset + size :] == 77).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_shares_of_threads_and_streaming_stores_change_no_bit(variant):
    size = cpu().cache_sizes()["l3"] // 12 + (1 << 17) + 5  # float32: beyond the size from which stores stream
    size = min(size, 1 << 23)
    a, b = (np.random.default_rng(seed).standard_normal(size, np.float32) for seed in (1, 2))
    wanted = a + b
    for threads in (1, 2, 3):
        out = np.full(size + 3, np.nan, np.float32)[3:]
        REDUCE.reduce(a, b, out, "sum", threads, variant)
        assert out.tobytes() == wanted.tobytes()


def test_integers_wrap_and_a_nan_wins():
    out = np.empty(1, np.int8)
    REDUCE.reduce(np.array([127], np.int8), np.array([1], np.int8), out, "sum")
    assert out[0] == -128
    for dtype in (np.float64, np.float32, np.float16, BFLOAT16):
        nan, one, result = np.array([np.nan], dtype), np.ones(1, dtype), np.ones(1, dtype)
        for op in ("min", "max"):
            for pair in ((nan, one), (one, nan)):
                REDUCE.reduce(*pair, result, op)
                assert np.isnan(result.astype(np.float64)[0])


def test_arguments_that_cannot_be_used_are_refused_in_a_sentence():
    a, b, out = np.ones(16), np.ones(16), np.ones(16)
    read_only = np.ones(16)
    read_only.flags.writeable = False
    shared = np.ones(32)
    for sentence, arguments in {
        "knows sum, prod, min and max": (a, b, out, "mean"),
        "a has 15 elements, out has 16": (a[:15], b, out, "sum"),
        "b is float32, out is float64": (a, b.astype(np.float32), out, "sum"),
        "a must be one-dimensional and contiguous": (np.ones((4, 4)), b, out, "sum"),
        "b must be one-dimensional and contiguous": (a, shared[::2], out, "sum"),
        "out is read-only": (a, b, read_only, "sum"),
        "a and out overlap in part": (shared[:16], b, shared[1:17], "sum"),
        "b and out overlap in part": (a, shared[8:24], shared[:16], "sum"),
        "a is a list, not an array": ([1.0], b, out, "sum"),
    }.items():
        with pytest.raises(InvalidArgument, match=sentence):
            REDUCE.reduce(*arguments)
