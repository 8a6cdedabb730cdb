from __future__ import annotations

import numpy as np
import pytest

from pyhpc.acceptance import fault
from pyhpc.errors import ConfigError


def test_without_the_variable_nothing_breaks(monkeypatch):
    monkeypatch.delenv(fault.VARIABLE, raising=False)
    data = np.ones(4)
    none = fault.from_environment(0, "matmul")
    none.at_case("float32")
    none.at_result(data, "float32")
    assert (data == 1).all()


def test_flip_changes_one_bit_of_one_element_of_one_sample(monkeypatch):
    monkeypatch.setenv(fault.VARIABLE, "flip rank=1 step=matmul sample=2 element=5 bit=9")
    flip = fault.from_environment(1, "matmul")
    flip.at_case("float32")
    data = np.ones((3, 4), np.float32)
    for sample in range(4):
        before = data.view(np.uint32).copy()
        flip.at_result(data, "float32")
        changed = before ^ data.view(np.uint32)
        assert np.flatnonzero(changed).tolist() == ([5] if sample == 2 else [])
        if sample == 2:
            assert changed.reshape(-1)[5] == 1 << 9


@pytest.mark.parametrize(("rank", "step"), [(0, "matmul"), (1, "attention")])
def test_other_ranks_and_steps_are_spared(monkeypatch, rank, step):
    monkeypatch.setenv(fault.VARIABLE, "flip rank=1 step=matmul")
    assert fault.from_environment(rank, step).kind == ""


def test_raise_raises_in_the_named_case_only(monkeypatch):
    monkeypatch.setenv(fault.VARIABLE, "raise case=int8")
    broken = fault.from_environment(0, "matmul")
    broken.at_case("float32 64x64x64")
    with pytest.raises(fault.InjectedFault):
        broken.at_case("int8 64x64x64")


@pytest.mark.parametrize("text", ["explode", "flip colour=red"])
def test_a_fault_that_cannot_be_understood_is_refused(monkeypatch, text):
    monkeypatch.setenv(fault.VARIABLE, text)
    with pytest.raises(ConfigError, match="expected flip, die, raise or hang"):
        fault.from_environment(0, "matmul")
