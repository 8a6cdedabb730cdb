"""Scaled products of 8-bit floating-point matrices on the CPU, against float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pyhpc import scaled_matmul
from pyhpc.errors import InvalidArgument
from pyhpc.kernels.matmul_scaled import FLOAT8

M, N, K = 5, 131, 129
SHAPES = [((), (1, 1)), ((M, 1), (1, N)), ((M,), (N,)), ((M, 2), (2, 2))]


def random(shape, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def scale(shape, seed=2):
    return np.asarray(np.random.default_rng(seed).uniform(0.25, 4, shape), np.float32)


def whole(values, shape, axis):
    """A scale for every element, by its definition."""
    if values.size == 1:
        return np.full(shape, values.item(), np.float64)
    result = np.empty(shape)
    for i, j in np.ndindex(shape):
        if values.size == shape[axis]:
            result[i, j] = values.reshape(-1)[(i, j)[axis]]
        else:
            result[i, j] = values[i, j // 128] if axis == 0 else values[i // 128, j // 128]
    return result


@pytest.mark.parametrize("result", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize(("of_a", "of_b"), SHAPES)
def test_scales_of_every_shape_multiply_what_they_say(dtype, of_a, of_b, result):
    a, b = random((M, K), FLOAT8[dtype]), random((N, K), FLOAT8[dtype], 3).T
    scale_a, scale_b = scale(of_a), scale(of_b, 4)
    left, right = a.astype(float) * whole(scale_a, a.shape, 0), b.astype(float) * whole(scale_b, b.shape, 1)
    found = scaled_matmul(a, b, scale_a=scale_a, scale_b=scale_b, dtype=result)
    bound = (K + 4) * 2.0**-24 * (np.abs(left) @ np.abs(right))
    if result != "float32":
        bound += float(ml_dtypes.finfo(found.dtype).eps) * np.abs(left @ right)
    assert found.dtype.name == result
    assert (np.abs(found.astype(float) - left @ right) <= bound).all()


def test_numbers_are_scales_and_the_product_is_added_to_out():
    a, b = random((2, 3), FLOAT8["float8_e5m2"]), random((3, 4), FLOAT8["float8_e5m2"], 3)
    exact = a.astype(float) @ b.astype(float)
    for kind in (np.float32, ml_dtypes.bfloat16):
        out = np.full((2, 4), 8, kind)
        assert scaled_matmul(a, b, scale_a=0.5, scale_b=4, out=out, accumulate=True) is out
        np.testing.assert_allclose(out.astype(float), 8 + 2 * exact, rtol=0.01, atol=0.05)


def test_bytes_are_read_as_what_the_caller_says():
    a, b = random((4, 16), FLOAT8["float8_e4m3fn"]), random((16, 3), FLOAT8["float8_e4m3fn"], 3)
    expected = scaled_matmul(a, b)
    np.testing.assert_array_equal(scaled_matmul(a.view(np.uint8), b.view(np.uint8), operands="float8_e4m3fn"), expected)
    assert not np.array_equal(scaled_matmul(a.view(np.uint8), b.view(np.uint8), operands="float8_e5m2"), expected)


def test_tensors_of_pytorch_give_a_tensor():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    a = torch.randn(4, 16).to(torch.float8_e4m3fn)
    b = torch.randn(3, 16).to(torch.float8_e4m3fn).T
    found = scaled_matmul(a, b, scale_a=torch.tensor(0.5), dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, (0.5 * a.float() @ b.float()).bfloat16(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scale_a": scale((M, 3))}, r"scale_a has shape \(5, 3\); it must be \(1,\), \(5, 1\) or, .* \(5, 2\)"),
        ({"scale_b": scale((N, 2))}, r"scale_b has shape \(131, 2\); it must be \(1,\), \(1, 131\) or, .* \(2, 2\)"),
        ({"scale_a": np.ones(1)}, "scale_a is float64; scales are float32"),
        ({"a": random((M, K), np.float32)}, "a is float32; give float8_e4m3fn or float8_e5m2"),
        ({"b": random((K, N), FLOAT8["float8_e5m2"])}, "they must be of the same dtype"),
        ({"a": random((M, K - 1), FLOAT8["float8_e4m3fn"])}, r"they must be \(m, k\) and \(k, n\)"),
        ({"dtype": "float64"}, "dtype is float64; the result is float32, bfloat16 or float16"),
        ({"out": np.zeros((M, N))}, "out is float64"),
        ({"operands": "float8_e5m2"}, "a is float8_e4m3fn, but operands says float8_e5m2"),
        ({"variant": "sm90"}, "variant is for arrays on a GPU"),
        ({"accumulate": True}, "give out"),
    ],
)
def test_what_does_not_fit_is_refused(change, reason):
    given = {"a": random((M, K), FLOAT8["float8_e4m3fn"]), "b": random((K, N), FLOAT8["float8_e4m3fn"])} | change
    with pytest.raises(InvalidArgument, match=reason):
        scaled_matmul(given.pop("a"), given.pop("b"), **given)
