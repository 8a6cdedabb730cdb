"""Memory bandwidth: read, copy and triad from every cache level and DRAM; every CPU variant beside NumPy."""

from __future__ import annotations

from pyhpc.kernels.memory import at_level
from pyhpc.machine import probe
from pyhpc.native import cpu

KERNEL = "memory"

LEVELS = ["L1", "L2", "DRAM"] if probe().cache_bytes.get("l2") else ["DRAM"]
PROBLEMS = [
    at_level(op, level, probe().cache_bytes, cpu().available_threads())
    for level in LEVELS
    for op in ("read", "copy", "triad")
]


def test_memory(measure, contestant):
    measure(contestant)
