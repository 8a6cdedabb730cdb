"""The bandwidth loops are exact at every size, offset and number of threads; line latency pins threads of its own."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.native import cpu

MEMORY = cpu().memory
VARIANTS = [name for name, refusal in MEMORY.variants() if not refusal]
SIZES = (0, 1, 7, 8, 127, 128, 129, 1000, 4097)
GUARD = -7.0


def guarded(size: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """An array of `size` at an element offset inside one whose margins hold GUARD."""
    whole = np.full(size + 40, GUARD)
    return whole, whole[16 + offset : 16 + offset + size]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_operation_writes_its_formula_and_nothing_else(variant, size, threads, streaming):
    a, b = np.arange(size, dtype=float), np.arange(size, dtype=float)[::-1].copy()
    for offset in range(9):
        for op, arguments, expected in (
            ("copy", (a, None), a),
            ("triad", (a, b), a + 3 * b),
            ("fill", (None, None), np.full(size, 3.0)),
        ):
            whole, c = guarded(size, offset)
            MEMORY.run(op, *arguments, c, repeats=2, streaming=streaming, threads=threads, variant=variant)
            np.testing.assert_array_equal(c, expected)
            assert np.count_nonzero(whole == GUARD) == 40, op


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_read_sums_every_element_on_every_repeat(variant, size, threads):
    for offset in range(9):
        _, a = guarded(size, offset)
        a[:] = np.arange(size)
        for repeats in (0, 1, 3):
            assert MEMORY.run("read", a, None, None, repeats, False, threads, variant) == repeats * a.sum()


def test_arguments_that_cannot_be_used_are_refused_in_a_sentence():
    a, c = np.ones(16), np.ones(16)
    read_only = np.ones(16)
    read_only.flags.writeable = False
    for sentence, arguments in {
        "memory knows read, copy, triad and fill": ("scale", a, None, c),
        "b is not used by this op": ("copy", a, a, c),
        "a has 16 elements, c has 15": ("copy", a, None, c[:15]),
        "a and c overlap": ("copy", c[:8], None, c[4:12]),
        "b and c overlap": ("triad", a, c, c),
        "a must be one-dimensional and contiguous": ("read", a[::2], None, None),
        "a must be float64": ("read", a.astype(np.float32), None, None),
        "c is read-only": ("fill", None, None, read_only),
        "b is a NoneType, not an array": ("triad", a, None, c),
    }.items():
        with pytest.raises(InvalidArgument, match=sentence):
            MEMORY.run(*arguments)
    with pytest.raises(InvalidArgument, match="repeats is -1"):
        MEMORY.run("copy", a, None, c, -1)


@pytest.fixture
def two_cores():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("this process may use one core only")
    return cores[:2]


def test_line_latency_is_positive_and_leaves_the_affinity_alone(two_cores):
    before = os.sched_getaffinity(0)
    assert MEMORY.line_latency(*two_cores, rounds=200) > 1e-9
    assert os.sched_getaffinity(0) == before


def test_line_latency_refuses_one_core_a_foreign_core_and_no_rounds(two_cores):
    first, second = two_cores
    with pytest.raises(InvalidArgument, match="needs two cores"):
        MEMORY.line_latency(first, first)
    with pytest.raises(InvalidArgument, match="at least 1"):
        MEMORY.line_latency(first, second, 0)
    with pytest.raises(Unsupported, match="may not use core 1000000"):
        MEMORY.line_latency(first, 1000000)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {first})
    try:
        with pytest.raises(Unsupported, match=f"may use only core {first}"):
            MEMORY.line_latency(first, second)
    finally:
        os.sched_setaffinity(0, before)
