"""Products with more than 2^31 elements in an operand or in the result: no offset may pass through 32 bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import psutil
import pytest

from pyhpc import matmul

ROWS, COLUMNS = 65_600, 32_800  # 2^31 and 4 million more

pytestmark = pytest.mark.skipif(
    psutil.virtual_memory().available < 10 << 30, reason="there are no 10 GiB of free memory"
)


@pytest.mark.parametrize("columns", [1, 3, 40])
def test_a_left_operand_of_more_than_two_to_the_31_elements(columns):
    random = np.random.default_rng(0)
    usual, other = random.integers(-127, 128, (2, COLUMNS)).astype(np.int8)
    b = random.integers(-127, 128, (COLUMNS, columns)).astype(np.int8)
    a = np.empty((ROWS, COLUMNS), np.int8)
    a[:] = usual
    a[::997] = a[-1] = other
    expected = np.broadcast_to(usual.astype(np.int64) @ b, (ROWS, columns)).copy()
    expected[::997] = expected[-1] = other.astype(np.int64) @ b
    np.testing.assert_array_equal(matmul(a, b), expected)


def test_a_result_of_more_than_two_to_the_31_elements():
    left = (np.arange(ROWS) % 15 - 7).astype(ml_dtypes.bfloat16)[:, None]
    right = (np.arange(COLUMNS) % 13 - 6).astype(ml_dtypes.bfloat16)[None]
    out = np.empty((ROWS, COLUMNS), ml_dtypes.bfloat16)
    matmul(left, right, out=out)
    for first in range(15):  # the rows of each value of a
        expected = (left[first].astype(np.float32) * right.astype(np.float32) + 0).astype(ml_dtypes.bfloat16)  # no −0
        assert (out.view(np.uint16)[first::15] == expected.view(np.uint16)).all()
