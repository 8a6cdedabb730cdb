"""The management library, played by a module that answers like it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from pyhpc.measure import nvml
from pyhpc.measure.conditions import Probe


class FakeNvmlError(Exception):
    """As pynvml.NVMLError."""


@pytest.fixture
def board(monkeypatch):
    """A module `pynvml` with one GPU; the dict of its answers (an exception is raised)."""
    answers = {
        "nvmlDeviceGetUUID": "GPU-1",
        "nvmlDeviceGetSerial": FakeNvmlError(),
        "nvmlDeviceGetPowerUsage": 350_500,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x01 | 0x04,
        "nvmlDeviceGetEccMode": [1, 1],
    }
    module = ModuleType("pynvml")
    module.NVMLError = FakeNvmlError
    module.NVML_TEMPERATURE_GPU = module.NVML_CLOCK_SM = 0
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: 1
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlSystemGetDriverVersion = lambda: "580.1"

    def answer(name):
        def query(*arguments):
            if isinstance(answers[name], Exception):
                raise answers[name]
            return answers[name]

        return query

    for name in answers:
        setattr(module, name, answer(name))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    nvml._library.cache_clear()
    yield answers, module
    nvml._library.cache_clear()


def test_a_board_is_read_in_base_units_and_idle_is_no_throttling(board):
    (state,) = nvml.states()
    assert (state.power_watts, state.power_limit_watts, state.clock_hertz) == (350.5, 700.0, 1980e6)
    assert (state.temperature_celsius, state.ecc, state.throttle_reasons) == (61.0, "on", ("software power cap",))
    assert state.serial == ""  # not offered


def test_what_a_board_does_not_offer_is_none(board):
    answers, _ = board
    answers.update(dict.fromkeys(answers, FakeNvmlError()))
    (state,) = nvml.states()
    assert state.power_watts is state.temperature_celsius is state.clock_hertz is state.power_limit_watts is None
    assert state.ecc == ""


def test_a_probe_of_a_gpu_gives_the_gpus_values_at_both_moments(board):
    answers, _ = board
    probe = Probe(gpu="GPU-1")
    answers.update({"nvmlDeviceGetPowerUsage": 650_000, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x40})
    found = probe.stop()
    assert found.power_watts == (350.5, 650.0)
    assert found.clock_hertz == (1980e6, 1980e6)
    assert found.throttle_reasons[:2] == ("software power cap", "hardware thermal slowdown")


def test_a_probe_of_an_unknown_gpu_invents_nothing(board):
    found = Probe(gpu="GPU-2").stop()
    assert found.clock_hertz == found.power_watts == found.temperature_celsius == ()


def test_without_a_driver_there_is_no_board(board):
    _, module = board

    def no_driver():
        raise FakeNvmlError

    module.nvmlInit = no_driver
    assert nvml.states() == ()
