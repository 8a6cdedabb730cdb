"""The sm90 peak loops, run on the CPU (csrc/core/cuda_hopper_emulation.h): the values count every operation."""

from __future__ import annotations

import ctypes

import pytest

NUMBERS = ["float64", "float32", "tf32", "bfloat16", "float16", "float8_e4m3fn", "int8"]  # Number, cuda_peak.h
BLOCK_OPERATIONS = 3 << 22


@pytest.fixture(scope="module")
def library(compiled):
    loaded = compiled("cuda_peak_emulation")
    loaded.refusal.restype = ctypes.c_char_p
    return loaded


@pytest.mark.parametrize("dtype", [dtype for dtype in NUMBERS if dtype != "float32"])
@pytest.mark.parametrize("reverse", [False, True])
def test_wgmma_counts_every_operation_of_all_blocks(library, dtype, reverse):
    library.set_reverse_order(reverse)
    counted = ctypes.c_int64(-77)
    blocks = 3 if dtype != "float8_e4m3fn" else 21  # so that its short run ends within the work
    assert library.peak(NUMBERS.index(dtype), ctypes.c_int64(blocks), ctypes.byref(counted)) == 0
    assert counted.value == blocks * BLOCK_OPERATIONS


def test_float32_is_left_to_the_multiply_adds_of_sm80(library):
    assert b"no tensor core" in library.refusal(NUMBERS.index("float32"))
    assert library.refusal(NUMBERS.index("bfloat16")) is None
