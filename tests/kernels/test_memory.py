"""The bandwidth contract: every variant and peer fulfils it, a wrong element is seen, footprints fit their level."""

from __future__ import annotations

import numpy as np
import pytest

from pyhpc.errors import ConfigError, Unsupported
from pyhpc.kernels import memory
from pyhpc.native import cpu

CACHES = {"l1d": 48 << 10, "l2": 1280 << 10, "l3": 48 << 20}


@pytest.mark.parametrize("variant", memory.KERNEL.variants() + memory.KERNEL.peers(), ids=lambda variant: variant.name)
@pytest.mark.parametrize("op", memory.INPUTS)
@pytest.mark.parametrize("stores", memory.STORES)
def test_a_variant_is_exact_or_says_why_it_cannot_run(variant, op, stores):
    if op == "read" and stores == "streaming":
        with pytest.raises(ValueError, match="read stores nothing"):
            memory.MemoryProblem(op, 4096, stores=stores)
        return
    for elements in (1, 9, 1021, 5000):
        bytes_asked = elements * 8 * (len(memory.INPUTS[op]) + (op != "read"))
        problem = memory.MemoryProblem(op, bytes_asked, stores=stores, repeats=3)
        if reason := variant.reject(problem):
            pytest.skip(reason)
        arrays, out = problem.inputs(), problem.output()
        assert not problem.verify(out, arrays).passed, "the poisoned output must be wrong"
        variant.run(problem, arrays, out, 2)
        check = problem.verify(out, arrays)
        assert check.passed, check.first_wrong
        assert check.elements == out.size


@pytest.mark.parametrize("op", memory.INPUTS)
def test_one_flipped_bit_is_seen(op):
    problem = memory.MemoryProblem(op, 64 << 10)
    arrays, out = problem.inputs(), problem.output()
    memory.KERNEL.best(problem).run(problem, arrays, out, 1)
    out.view(np.uint64)[out.size // 2] ^= 1
    check = problem.verify(out, arrays)
    assert (check.passed, check.wrong) == (False, 1)
    assert check.first_wrong is not None


def test_bytes_are_counted_as_stream_counts_them():
    for op, words, flops in (("read", 1, 1), ("copy", 2, 0), ("triad", 3, 2), ("fill", 1, 0)):
        problem = memory.MemoryProblem(op, 24 << 10, "L1", repeats=10)
        assert problem.bytes == 10 * (24 << 10)
        assert problem.bytes == words * 8 * problem.elements * 10
        assert problem.flops == flops * problem.elements * 10


def test_labels_say_operation_level_footprint_and_stores():
    assert memory.MemoryProblem("triad", 256 << 20).label == "triad DRAM 256MiB"
    assert memory.MemoryProblem("copy", 24 << 10, "L1", "streaming").label == "copy L1 24KiB streaming"


def test_each_footprint_fits_its_level_and_exceeds_the_one_below():
    for threads in (1, 2):
        l1, l2, l3, dram = (memory.footprint(level, CACHES, threads) for level in memory.LEVELS)
        assert (
            l1 <= threads * CACHES["l1d"] < l2 <= threads * CACHES["l2"] < l3 <= CACHES["l3"] < 4 * CACHES["l3"] <= dram
        )
    assert memory.footprint("DRAM", CACHES) == 256 << 20
    assert memory.footprint("DRAM", {}, threads=100) >= 100 * (32 << 20)


def test_a_level_the_machine_does_not_tell_is_unsupported():
    with pytest.raises(Unsupported, match="does not tell the size of its L3"):
        memory.footprint("L3", {"l1d": 1, "l2": 1})
    with pytest.raises(Unsupported, match="cannot be told from 32 L2 caches"):
        memory.footprint("L3", CACHES, threads=32)


def test_a_problem_for_a_level_moves_enough_to_hide_the_call_and_survives_json():
    for level in memory.LEVELS:
        problem = memory.at_level("triad", level, CACHES, threads=2, stores="streaming")
        assert problem.bytes >= 200 << 20
        assert memory.KERNEL.problem(problem.to_json()) == problem


def test_the_scalar_is_the_one_of_the_native_loops():
    assert cpu().memory.scalar == memory.SCALAR


@pytest.mark.parametrize(
    "values",
    [
        {"op": "scale"},
        {"op": "copy", "level": "L4"},
        {"op": "copy", "stores": "warm"},
        {"op": "copy", "repeats": 0},
        {"op": "copy", "threads": -1},
        {"op": "triad", "footprint_bytes": 23},
    ],
)
def test_a_value_out_of_range_is_a_config_error(values):
    with pytest.raises(ConfigError, match="memory"):
        memory.KERNEL.problem({"footprint_bytes": 4096} | values)
