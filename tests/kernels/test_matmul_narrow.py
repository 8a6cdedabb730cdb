"""16-bit products of 16-bit operands: the float32 sum, rounded once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pyhpc import matmul, pack
from pyhpc.errors import InvalidArgument
from pyhpc.kernels.data import DTYPES, PATTERNS, operand
from pyhpc.kernels.matmul_problem import MatmulProblem
from pyhpc.native import cpu

VARIANTS = [name for name, refusal in cpu().matmul.variants() if not refusal]
HALVES = ["bfloat16", "float16"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_it_is_the_float32_product_rounded_to_nearest_even(variant, dtype):
    kind = DTYPES[dtype]
    for m, n, k in ((1, 1, 1), (67, 35, 130), (1, 90, 77), (90, 1, 65), (33, 100, 700), (3, 4, 0), (0, 3, 2)):
        a, b = operand((m, k), dtype, "normal", 1, "a"), operand((k, n), dtype, "normal", 1, "b")
        wide = matmul(a, b, variant=variant)
        for threads in (1, 3):
            narrow = matmul(a, b, dtype=dtype, variant=variant, threads=threads)
            assert narrow.dtype == kind
            np.testing.assert_array_equal(narrow, wide.astype(kind))
        scattered = np.zeros((n, 2, m), kind)[:, 1].T[:, ::-1]
        matmul(a, b, out=scattered, variant=variant)
        # Scattered results may be summed in another order, and so round the other way.
        np.testing.assert_allclose(scattered.astype(float), wide.astype(float), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_kind_of_float32_number_is_rounded_as_ieee_says(variant, dtype):
    kind, one = DTYPES[dtype], np.ones((1, 1), DTYPES[dtype])
    values = np.arange(1 << 16, dtype=np.uint16).view(kind)
    with np.errstate(all="ignore"):
        # Sums of two numbers of 16 bits: ties, subnormals, overflows, infinities and NaN.
        for other in (0.0, 2.0**-24, 2.0**-25 * 3, 1.0, 65504.0, 3e38, 1.0 + 2.0**-7):
            left = np.stack([values, np.full(1 << 16, other, np.float64).astype(kind)], axis=1)
            expected = (values.astype(np.float32) + left[0, 1].astype(np.float32)).astype(kind)
            found = matmul(left, np.concatenate([one, one]), dtype=dtype, variant=variant)[:, 0]
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
            valid = ~np.isnan(expected)
            np.testing.assert_array_equal(found[valid], expected[valid])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_the_error_is_within_the_bound_and_one_rounding(dtype, pattern):
    problem = MatmulProblem(40, 50, 600, dtype, pattern=pattern)
    inputs = problem.inputs()
    with np.errstate(over="ignore"):
        out = matmul(inputs["a"], inputs["b"], dtype=dtype)
        check = problem.verify(out, inputs)
        largest = np.abs(inputs["a"].astype(float) @ inputs["b"].astype(float)) > 65000
    assert check.wrong == np.isinf(out).sum(), check.first_wrong
    assert not np.isinf(out)[~largest].any()  # float16 ends at 65504
    if dtype == "bfloat16":
        assert check.passed


@pytest.mark.parametrize("dtype", HALVES)
def test_adding_to_it_rounds_once_too(dtype):
    a, b = operand((5, 9, 30), dtype, "uniform", 1, "a"), operand((30, 21), dtype, "uniform", 1, "b")
    out = operand((5, 9, 21), dtype, "uniform", 1, "out")
    wide = out.astype(np.float32)
    matmul(a, b, out=wide, accumulate=True)
    matmul(a, b, out=out, accumulate=True)
    np.testing.assert_array_equal(out, wide.astype(out.dtype))


def test_a_result_beyond_the_scratch_memory_is_made_in_pieces():
    m, n = 1100, 20000  # 88 MB in float32
    a, b = operand((m, 3), "bfloat16", "integers", 1, "a"), operand((3, n), "bfloat16", "integers", 1, "b")
    out = np.full((2, m, n), np.nan, ml_dtypes.bfloat16)
    matmul(np.stack([a, a[::-1]]), b, out=out)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(out[0], expected)
    np.testing.assert_array_equal(out[1], expected[::-1])


@pytest.mark.parametrize("dtype", HALVES)
def test_packed_operands_checks_numba_and_tensors_take_it(dtype):
    torch = pytest.importorskip("torch")
    a, b = operand((70, 90), dtype, "integers", 1, "a"), operand((90, 40), dtype, "integers", 1, "b")
    expected = (a.astype(np.float32) @ b.astype(np.float32)).astype(DTYPES[dtype])
    np.testing.assert_array_equal(matmul(a, pack(b), dtype=dtype), expected)
    out = matmul(a, b, dtype=dtype, check=True)
    np.testing.assert_array_equal(out, expected)
    out[60, 3] += 2048
    assert cpu().matmul.check(a, b, out) == 60
    np.testing.assert_array_equal(matmul(a, b, dtype=dtype, variant="numba"), expected)
    left, right = (torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)) for x in (a, b))
    product = matmul(left, right, dtype=left.dtype)
    assert product.dtype == left.dtype
    np.testing.assert_array_equal(product.float().numpy(), expected.astype(np.float32))


def test_a_type_that_the_product_cannot_have_is_refused():
    half, single = np.ones((2, 2), np.float16), np.ones((2, 2), np.float32)
    for call, sentence in (
        (lambda: matmul(half, half, dtype="float64"), "dtype is float64; the product of float16 arrays is float32 or"),
        (
            lambda: matmul(single, single, dtype=np.float16),
            "dtype is float16; the .* float32 arrays is float32$",
        ),
        (lambda: matmul(single, single, out=half.copy()), "out is float16; the product of float32 arrays is float32$"),
        (
            lambda: matmul(half, half, out=np.ones((2, 2), ml_dtypes.bfloat16)),
            "out is bfloat16; .* float32 or float16",
        ),
        (lambda: matmul(half, half, out=half.copy(), dtype="float16"), "out has its own, leave dtype out"),
    ):
        with pytest.raises(InvalidArgument, match=sentence):
            call()
    assert matmul(single, single, dtype=np.float32).dtype == np.float32
