"""Checked products: what is right passes, what is wrong by more than rounding is found and named."""

from __future__ import annotations

import numpy as np
import pytest

from pyhpc import matmul
from pyhpc.errors import InvalidArgument, WrongResult
from pyhpc.kernels.data import DTYPES, PATTERNS, operand
from pyhpc.kernels.matmul_check import wrong_result
from pyhpc.kernels.matmul_problem import RESULT_DTYPE, MatmulProblem
from pyhpc.native import cpu

VARIANTS = [name for name, refusal in cpu().matmul.variants() if not refusal]
FLOATS = [dtype for dtype in RESULT_DTYPE if dtype != "int8"]


@pytest.mark.parametrize(
    ("variant", "pattern"),
    [(VARIANTS[0], pattern) for pattern in PATTERNS] + [(name, "normal") for name in VARIANTS[1:]],
)
@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_right_products_pass(variant, dtype, pattern):
    for m, n, k in ((1, 1, 1), (67, 35, 130), (1, 90, 77), (90, 1, 65), (3, 4, 0), (0, 3, 2)):
        a, b = operand((m, k), dtype, pattern, 1, "a"), operand((k, n), dtype, pattern, 1, "b")
        for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b)), (a[::-1], b[:, ::-1])):
            out = np.full((m, n), 3, RESULT_DTYPE[dtype])
            plain = matmul(left, right, out=out.copy(), accumulate=True, variant=variant)
            np.testing.assert_array_equal(
                matmul(left, right, out=out, accumulate=True, check=True, variant=variant), plain
            )
            np.testing.assert_array_equal(
                matmul(left, right, check=True, variant=variant), matmul(left, right, variant=variant)
            )


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_right_products_of_several_blocks_pass_whatever_the_team(dtype):
    a, b = operand((130, 1500), dtype, "normal", 7, "a"), operand((1500, 170), dtype, "normal", 7, "b")
    plain = matmul(a, b)
    for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
        for threads in (1, 2, 3):
            np.testing.assert_array_equal(matmul(left, right, check=True, threads=threads), plain)


def bound(a, b, row):
    """The largest error of the row's sum that rounding explains, as verify.h derives it, to three digits."""
    k, n = b.shape
    u = 2.0**-53 if a.dtype == np.float64 else 2.0**-24
    magnitude = float((np.abs(a[row].astype(float)) @ np.abs(b.astype(float))).sum())
    return (k * u / (1 - k * u) + 2 * (n + k) * 2.0**-53) * magnitude


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_flipped_bit_beyond_the_bound_is_found_and_none_within_it_is_reported(variant, dtype):
    a, b = operand((37, 50), dtype, "normal", 2, "a"), operand((50, 41), dtype, "normal", 2, "b")
    right = matmul(a, b, variant=variant)
    bits = right.dtype.itemsize * 8
    found = 0
    for bit in range(bits):
        for i, j in ((0, 0), (36, 40), (17, 5)):
            wrong = right.copy()
            wrong.view(f"u{bits // 8}")[i, j] ^= np.array(1, f"u{bits // 8}") << np.array(bit, f"u{bits // 8}")
            with np.errstate(all="ignore"):
                change = abs(float(wrong[i, j]) - float(right[i, j]))
            row = cpu().matmul.check(a, b, wrong, variant=variant)
            if not change <= 2.01 * bound(a, b, i):  # the right element may use up one bound in the other direction
                assert row == i
                error = wrong_result((a, b, wrong), None, row)
                assert error.index == (i, j)
                assert error.found == wrong[i, j] or np.isnan(wrong[i, j])
                assert abs(error.expected - right[i, j]) <= error.tolerance
                found += 1
            elif change < 0.1 * bound(a, b, i):
                assert row == -1
    assert found >= 3 * 7  # the exponent's upper bits and many more


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_flipped_bit_of_an_integer_product_is_found(variant):
    a, b = operand((3, 19, 70), "int8", "uniform", 3, "a"), operand((70, 33), "int8", "uniform", 3, "b")
    right = matmul(a, b, variant=variant)
    for bit in range(32):
        wrong = right.copy()
        wrong.view(np.uint32)[2, 18, bit] ^= np.uint32(1 << bit)
        row = cpu().matmul.check(a, b, wrong, variant=variant)
        assert row == 2 * 19 + 18
        error = wrong_result((a, b, wrong), None, row)
        assert error.index == (2, 18, bit)
        assert (error.found, error.expected) == (wrong[2, 18, bit], right[2, 18, bit])


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_a_wrong_element_of_a_batch_or_of_scattered_rows_is_named(dtype):
    a, b = operand((2, 3, 10, 9), dtype, "integers", 4, "a"), operand((3, 9, 20), dtype, "integers", 4, "b")
    out = np.empty((2, 3, 20, 20), RESULT_DTYPE[dtype])[:, :, ::-2, ::-1]
    matmul(a, b, out=out)
    assert cpu().matmul.check(a, b, out) == -1
    out[1, 2, 7, 11] += 100
    row = cpu().matmul.check(a, b, out)
    error = wrong_result((a, b, out), None, row)
    assert error.index == (1, 2, 7, 11)
    assert error.found - error.expected == 100
    with pytest.raises(WrongResult, match=r"^out\[1, 2, 7, 11\] is .* is right: the processor or the memory gave"):
        raise error


def test_what_was_added_to_is_part_of_the_sum(monkeypatch):
    a, b = operand((6, 8), "float64", "integers", 5, "a"), operand((8, 7), "float64", "integers", 5, "b")
    start = np.full((6, 7), 1000.0)
    native = cpu().matmul

    def spoiled(*arguments):
        row = native.run_checked(*arguments)
        assert row == -1
        arguments[2][4, 3] -= 500
        return 4

    monkeypatch.setattr("pyhpc.kernels.matmul.cpu", lambda: type("Module", (), {"matmul": type("M", (), {
        "run_checked": staticmethod(spoiled)})}))  # fmt: skip
    with pytest.raises(WrongResult) as caught:
        matmul(a, b, out=start, accumulate=True, check=True)
    assert caught.value.index == (4, 3)
    assert caught.value.expected == (a @ b)[4, 3] + 1000
    assert caught.value.found == caught.value.expected - 500


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", FLOATS)
def test_inf_and_nan_of_an_operand_are_not_reported_but_those_of_a_wrong_result_are(dtype, special):
    a, b = operand((9, 30), dtype, "normal", 6, "a"), operand((30, 12), dtype, "normal", 6, "b")
    wrong = matmul(a, b)
    wrong[3, 4] = special
    assert cpu().matmul.check(a, b, wrong) == 3
    a[5, 7] = special
    out = matmul(a, b, check=True)
    assert not np.isfinite(out[5]).all()
    out[8, 0] += 1e4
    assert cpu().matmul.check(a, b, out) == 8  # rows without the special value are judged


def test_a_result_that_rightly_overflows_is_not_reported():
    a, b = np.full((3, 4), 3e38, np.float32), np.full((4, 5), 2.0, np.float32)
    assert np.isinf(matmul(a, b, check=True)).all()


def test_vectors_and_tensors_are_checked_and_numba_is_refused():
    torch = pytest.importorskip("torch")
    x = torch.arange(6.0)
    assert matmul(x, x, check=True) == 55
    with pytest.raises(InvalidArgument, match="check is of the native variants"):
        matmul(np.ones((2, 2)), np.ones((2, 2)), check=True, variant="numba")


def test_the_number_of_threads_does_not_change_the_verdict():
    problem = MatmulProblem(200, 90, 300, "float32")
    arrays = problem.inputs()
    out = matmul(arrays["a"], arrays["b"])
    out[190, 80] = -out[190, 80] + DTYPES["float32"].type(100)
    assert {cpu().matmul.check(arrays["a"], arrays["b"], out, threads=threads) for threads in (1, 2, 3, 7)} == {190}
