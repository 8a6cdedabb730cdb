"""Exact-integer mode: operands as large as stay exact, and no tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from pyhpc import matmul
from pyhpc.kernels.matmul_problem import RESULT_DTYPE, MatmulProblem

LARGEST = {"float64": 2**40, "float32": 2**24, "bfloat16": 2**24, "float16": 2**24, "int8": 2**31 - 1}


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
@pytest.mark.parametrize("k", [1, 7, 300, 4096])
def test_no_sum_of_the_largest_products_is_beyond_what_the_type_holds(dtype, k):
    problem = MatmulProblem(9, 11, k, dtype, pattern="integers")
    inputs = problem.inputs()
    largest = problem.largest_integer
    assert k * largest**2 <= LARGEST[dtype]
    for array in inputs.values():
        assert np.array_equal(array.astype(np.int64), array.astype(np.float64))
        assert np.abs(array.astype(np.int64)).max(initial=0) <= largest
    if k * 11 > 1000:
        assert np.abs(inputs["b"].astype(np.int64)).max() > largest / 2


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_the_result_must_equal_the_integer_product_bit_for_bit(dtype):
    problem = MatmulProblem(37, 29, 500, dtype, pattern="integers")
    inputs = problem.inputs()
    exact = inputs["a"].astype(np.int64) @ inputs["b"].astype(np.int64)
    out = matmul(inputs["a"], inputs["b"])
    np.testing.assert_array_equal(out, exact)
    assert problem.verify(out, inputs).passed
    bits = out.view(f"u{out.itemsize}")
    bits[36, 28] ^= 1
    check = problem.verify(out, inputs)
    assert check.wrong == 1
    assert "c[36, 28]" in check.first_wrong


def test_a_depth_at_which_no_sum_is_exact_is_refused():
    with pytest.raises(ValueError, match="float32 sums of whole numbers are exact up to 16777216"):
        MatmulProblem(1, 1, 2**24 + 1, "float32", pattern="integers")
