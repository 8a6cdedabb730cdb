"""Tile records → clocks, slow multiprocessors, culprits."""

from __future__ import annotations

import numpy as np
import pytest

from pyhpc.measure.multiprocessors import clock_hertz, culprits, records, slow


def words(*tiles):
    """Rows of a log: multiprocessor, cycles, nanoseconds, row, column, batch; tiles of 128×256."""
    return np.array(
        [[sm, cycles, 1000, 1000 + ns, *place, 128 << 32 | 256] for sm, cycles, ns, *place in tiles], np.uint64
    )


def test_the_clock_is_cycles_over_nanoseconds_of_each_multiprocessor():
    log = records(words((0, 1500, 1000, 0, 0, 0), (1, 3000, 2000, 128, 0, 0), (0, 1700, 1000, 256, 0, 0)))
    assert clock_hertz(log) == {0: 1.6e9, 1: 1.5e9}


def test_only_a_multiprocessor_whose_tiles_take_more_cycles_is_slow():
    tiles = [(sm, 1000 + sm % 3, 700, 128 * sm, 0, 0) for sm in range(20)] + [(7, 1200, 800, 0, 256, 0)] * 2
    assert slow(records(words(*tiles))) == {7: pytest.approx(1.2, abs=0.01)}
    assert slow(()) == {}


def test_a_wrong_element_names_the_multiprocessor_of_its_tile():
    log = records(words((5, 9, 9, 0, 0, 0), (6, 9, 9, 0, 256, 0), (8, 9, 9, 0, 256, 1), (9, 9, 9, 128, 0, 0)))
    assert culprits(log, np.array([[127, 256], [0, 300], [128, 255]])) == {6: 2, 9: 1}
    assert culprits(log, np.array([[1, 3, 500]])) == {8: 1}
    assert culprits(log, np.array([[9999, 0]])) == {}


def test_a_log_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(tiles, 8\)"):
        records(np.zeros((3, 4), np.uint64))
