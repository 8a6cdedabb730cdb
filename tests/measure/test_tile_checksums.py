"""The thresholds of a product's line sums, on a model of sums that are cut off every 16 products."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pyhpc.measure.multiprocessors import TileRecord
from pyhpc.measure.tile_checksums import LINES, TileChecksums

M, N, K = 256, 512, 1024


def cut_off_product(a, b):
    """float32 sums, each step of 16 products rounded towards zero."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for p in range(0, a.shape[1], 16):
        exact = total + a[:, p : p + 16].astype(np.float64) @ b[p : p + 16].astype(np.float64)
        rounded = exact.astype(np.float32)
        total = np.where(np.abs(rounded) > np.abs(exact), np.nextafter(rounded, np.float32(0)), rounded)
    return total


@pytest.fixture(params=[0.0, 2.0], ids=["around zero", "all of one sign"])
def product(request):
    """The log, the line sums, what they must be, and the product."""
    random = np.random.default_rng(6)
    a, b = ((random.standard_normal(shape) + request.param).astype(ml_dtypes.bfloat16) for shape in ((M, K), (K, N)))
    places = [(row, column) for row in range(0, M, 128) for column in range(0, N, 256)]
    log = tuple(TileRecord(number + 7, 1, 1, *place, 0, 128, 256) for number, place in enumerate(places))
    found, sums = cut_off_product(a, b), np.full((len(log), LINES, 2), np.nan, np.float32)
    for number, (row, column) in enumerate(places):
        tile = found[row : row + 128, column : column + 256]
        sums[number, :128] = np.stack([tile.sum(axis=1), np.abs(tile).sum(axis=1)], axis=1)
    return log, sums, TileChecksums.of(log, a, b, 2), found


def test_cut_off_sums_are_right_with_room_to_spare(product):
    log, sums, checksums, _ = product
    assert checksums.wrong(log, sums) == []
    error = max(np.abs(sums[i, :128, 0] - checksums.expected[i]).max() for i in range(len(log)))
    sums[1, 5, 0] += 1e9
    assert checksums.wrong(log, sums)[0].threshold > 2 * error


def test_an_element_that_is_wrong_by_a_hundredth_of_all_is_found_and_its_multiprocessor_named(product):
    log, sums, checksums, found = product
    sums[2, 3, 0] += max(0.02 * found.std(), 0.05 * np.abs(found).mean())
    (wrong,) = checksums.wrong(log, sums)
    assert (wrong.multiprocessors, wrong.line) == ((9,), 128 + 3)
    assert abs(wrong.found - wrong.expected) > wrong.threshold


def test_what_is_no_number_is_wrong(product):
    log, sums, checksums, _ = product
    sums[0, 0] = np.nan
    sums[3, 127] = np.inf
    assert [tile.multiprocessors for tile in checksums.wrong(log, sums)] == [(7,), (10,)]
