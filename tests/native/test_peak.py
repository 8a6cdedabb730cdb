"""The peak loops: the values they compute count every operation, on every variant, dtype and number of threads."""

from __future__ import annotations

import pytest

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.native import cpu

PEAK = cpu().peak
DTYPES = ("float64", "float32", "bfloat16", "float16", "int8")


def run_or_refuse(dtype: str, blocks: int, threads: int, variant: str, refusal: str) -> None:
    if refusal:
        with pytest.raises(Unsupported, match="cannot run here"):
            PEAK.run(dtype, blocks, threads, variant)
    else:
        assert PEAK.run(dtype, blocks, threads, variant) == blocks * PEAK.block_operations


@pytest.mark.parametrize(("variant", "refusal"), PEAK.variants())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("blocks", "threads"), [(0, 1), (1, 1), (1, 3), (5, 2), (7, 3)])
def test_the_values_count_every_operation(dtype, blocks, threads, variant, refusal):
    run_or_refuse(dtype, blocks, threads, variant, refusal)


def test_the_recurrence_is_exact_in_numpy_too():
    import numpy as np

    for dtype in (np.float32, np.float64):
        three, third = dtype(3), dtype(1) / dtype(3)
        x = np.arange(1, (3 << 22) // 96, dtype=dtype)
        np.testing.assert_array_equal((x * three + three) * third + three, x + 4)


def test_the_default_variant_is_the_best_that_runs(monkeypatch):
    monkeypatch.delenv("PYHPC_VARIANT", raising=False)
    best = next(name for name, refusal in PEAK.variants() if not refusal)
    assert PEAK.instruction("float64") == PEAK.instruction("float64", best)
    monkeypatch.setenv("PYHPC_VARIANT", "generic")
    assert PEAK.instruction("float64") == PEAK.instruction("float64", "generic")


def test_unknown_dtype_variant_and_negative_blocks_are_refused():
    with pytest.raises(InvalidArgument, match="float64, float32, bfloat16, float16 and int8"):
        PEAK.run("int4", 1)
    with pytest.raises(InvalidArgument, match="no variant 'mmx'"):
        PEAK.run("float64", 1, 1, "mmx")
    with pytest.raises(InvalidArgument, match="must not be negative"):
        PEAK.run("float64", -1)
