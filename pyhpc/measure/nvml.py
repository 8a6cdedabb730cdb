"""What NVIDIA's management library tells of each GPU, by UUID: identity once, and its state at a moment.

Needs the package nvidia-ml-py (extra `cuda`) and a driver; `states()` is empty without them. A value that a board does
not offer is None. Source: NVML API reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Bits of nvmlDeviceGetCurrentClocksEventReasons that mean "slower than it could be"; idle (1) is none of them.
_REASONS = {
    0x02: "application clocks",
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment."""

    uuid: str
    serial: str
    driver: str
    ecc: str  # "on", "off" or "" where the board has none
    power_limit_watts: float | None
    power_watts: float | None
    temperature_celsius: float | None
    clock_hertz: float | None  # of the multiprocessors
    throttle_reasons: tuple[str, ...]


@functools.cache
def _library() -> Any:
    """The module pynvml, initialised, or None without the package or a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None  # no driver, or a device node that is not ours: the machine does not tell
    return pynvml


def states() -> tuple[GpuState, ...]:
    """Every GPU that the driver shows, whatever CUDA_VISIBLE_DEVICES says."""
    nvml = _library()
    if nvml is None:
        return ()
    return tuple(_state(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount()))


def _state(nvml: Any, device: Any) -> GpuState:
    def ask(function: str, *arguments: Any) -> Any:
        query: Callable[..., Any] = getattr(nvml, function)
        try:
            return query(device, *arguments)
        except nvml.NVMLError:
            return None  # not offered by this board

    power, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    temperature = ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    megahertz = ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
    bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    ecc = ask("nvmlDeviceGetEccMode")
    return GpuState(
        uuid=ask("nvmlDeviceGetUUID") or "",
        serial=ask("nvmlDeviceGetSerial") or "",
        driver=nvml.nvmlSystemGetDriverVersion(),
        ecc="" if ecc is None else "on" if ecc[0] else "off",
        power_limit_watts=None if limit is None else limit * 1e-3,
        power_watts=None if power is None else power * 1e-3,
        temperature_celsius=None if temperature is None else float(temperature),
        clock_hertz=None if megahertz is None else megahertz * 1e6,
        throttle_reasons=tuple(name for bit, name in _REASONS.items() if bits & bit),
    )
