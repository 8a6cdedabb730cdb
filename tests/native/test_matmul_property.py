"""Any shape, strides, alignment, dtype and data: within the proven bound of float64, and IEEE's Inf and NaN."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhpc import native

matmul = native.cpu().matmul
VARIANTS = [name for name, refusal in matmul.variants() if not refusal]
OUTPUT = {"float64": "float64", "float32": "float32", "bfloat16": "float32", "float16": "float32", "int8": "int32"}
DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in OUTPUT}
# The smallest normal exponent: "denormal" data lie below it.
TINY = {"float64": -1022, "float32": -126, "bfloat16": -126, "float16": -14}
SPAN = {"float64": 250, "float32": 30, "bfloat16": 30, "float16": 4}

SIZES = st.one_of(st.integers(0, 9), st.integers(10, 80), st.sampled_from([127, 128, 129, 257]))
# (step of a row, step of a column) in elements beyond what the shape needs, their signs, and which is near.
LAYOUTS = st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans())
DATA = st.sampled_from(["normal", "uniform", "ill-scaled", "denormal", "special"])


def laid_out(rows, columns, dtype, layout, shift):
    """An array of any strides inside larger memory that starts `shift` elements after an aligned place."""
    gap, step, up, right, turned = layout
    m, n = (columns, rows) if turned else (rows, columns)
    memory = np.zeros(shift + m * (n * step + gap) + 1, dtype)
    array = np.lib.stride_tricks.as_strided(
        memory[shift:], (m, n), ((n * step + gap) * dtype.itemsize, step * dtype.itemsize)
    )
    array = array[:: 1 if up else -1, :: 1 if right else -1]
    return array.T if turned else array


def draw(random, shape, name, kind):
    if name == "int8":
        return random.integers(-128, 128, shape)
    values = random.uniform(-1, 1, shape) if kind == "uniform" else random.standard_normal(shape)
    if kind == "ill-scaled":
        values = np.ldexp(values, random.integers(-SPAN[name], SPAN[name], shape))
    if kind == "denormal":
        values = np.ldexp(values, TINY[name] - 2)
    if kind == "special":
        values[random.random(shape) < 0.02] = random.choice([np.inf, -np.inf, np.nan])
    return values


def assert_right(out, a, b, start):
    wide = np.longdouble if out.dtype == np.float64 else np.float64
    a, b, start = a.astype(wide), b.astype(wide), start.astype(wide)
    terms, unit = a.shape[1] + 1, wide(np.finfo(out.dtype).eps) / 2
    with np.errstate(all="ignore"):
        expected = a @ b + start
        magnitude = np.abs(a) @ np.abs(b) + np.abs(start)
        # Denormal results are spaced by the smallest number: half of it, once for each rounding.
        bound = terms * unit / (1 - terms * unit) * magnitude + terms * wide(np.finfo(out.dtype).smallest_subnormal)
        finite = np.isfinite(expected)
        error = np.abs(out - expected)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(out[np.isinf(expected)], expected[np.isinf(expected)].astype(out.dtype))
    assert (error[finite] <= bound[finite]).all()


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    name=st.sampled_from(list(OUTPUT)),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    shifts=st.tuples(*[st.integers(0, 17)] * 3),
    kinds=st.tuples(DATA, DATA),
    repeated=st.sampled_from([None, None, None, "rows", "columns"]),
    accumulate=st.booleans(),
    variant=st.sampled_from(VARIANTS),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_any_product_is_within_the_bound(
    sizes, name, layouts, shifts, kinds, repeated, accumulate, variant, threads, seed
):
    m, n, k = sizes
    random, dtype = np.random.default_rng(seed), DTYPES[name]
    a, b = laid_out(m, k, dtype, layouts[0], shifts[0]), laid_out(k, n, dtype, layouts[1], shifts[1])
    out = laid_out(m, n, np.dtype(OUTPUT[name]), layouts[2], shifts[2])
    with np.errstate(all="ignore"):
        a[...], b[...] = draw(random, a.shape, name, kinds[0]), draw(random, b.shape, name, kinds[1])
    if repeated and min(a.shape) > 0:  # a stride of 0
        a = np.broadcast_to(a[:1] if repeated == "rows" else a[:, :1], a.shape)
    if accumulate:
        out[...] = draw(random, out.shape, "int8" if name == "int8" else "float32", "normal")
    else:
        out.fill(np.nan if out.dtype.kind == "f" else np.iinfo(out.dtype).min)
    start = out.copy() if accumulate else np.zeros_like(out)
    matmul.run(a, b, out, accumulate, threads, variant)
    if name == "int8":
        expected = a.astype(np.int64) @ b.astype(np.int64) + start
        np.testing.assert_array_equal(out, expected.astype(np.int32))
    else:
        assert_right(out, a, b, start)
