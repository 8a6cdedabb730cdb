"""Clocks: how long `count` executions of a call take, on the host or on a GPU.

A clock states its resolution and its cost, both measured on this machine: `sample` repeats a call until both are below
one per cent of what is timed. It also knows how to make the caches of its own device cold.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import numpy as np

from pyhpc import native
from pyhpc.measure.cache import evict_caches


class Clock(Protocol):
    """What `sample` needs of a clock."""

    @property
    def resolution_seconds(self) -> float:
        """The smallest difference the clock shows."""

    @property
    def cost_seconds(self) -> float:
        """What timing nothing at all gives."""

    @property
    def call_seconds(self) -> float:
        """What one call of an empty function adds: contained in every sample, never subtracted."""

    def time(self, call: Callable[[], Any], count: int) -> float:
        """Seconds that `count` calls in a row take, until their work is done."""

    def evict(self) -> None:
        """Make the device's caches cold."""


@dataclass(frozen=True)
class HostClock:
    """`time.perf_counter_ns`, which is monotonic. Use `host_clock()`."""

    resolution_seconds: float
    cost_seconds: float
    call_seconds: float

    def time(self, call: Callable[[], Any], count: int) -> float:
        """Seconds that `count` calls in a row take."""
        return _time(call, count)

    def evict(self) -> None:
        """Make the caches of all usable cores cold."""
        evict_caches()


@dataclass
class DeviceClock:
    """Events in a stream of one GPU: the GPU's own time, without the launch from Python. Use `device_clock()`.

    A call only enqueues into `stream`; short ones back to back are timed as the GPU executes them.
    """

    device: int
    stream: int
    resolution_seconds: float = 0.5e-6  # CUDA Runtime API, cudaEventElapsedTime: "around 0.5 microseconds"
    cost_seconds: float = 0.0
    call_seconds: float = 0.0  # the host calls ahead of the GPU

    def __post_init__(self) -> None:
        cuda = native.cuda()
        self._start, self._end = cuda.Event(self.device), cuda.Event(self.device)
        size = 2 * max(1 << 20, cuda.devices()[self.device]["l2_bytes"])
        self._evicting, self._zeros = cuda.Memory(size, self.device), np.zeros(size, np.uint8)
        self.cost_seconds = median(self.time(_nothing, 0) for _ in range(20))

    def time(self, call: Callable[[], Any], count: int) -> float:
        """Seconds of GPU time that `count` calls take, until the GPU has done their work."""
        self._start.record(self.stream)
        for _ in itertools.repeat(None, count):
            call()
        self._end.record(self.stream)
        self._end.synchronize()
        seconds: float = self._end.seconds_since(self._start)
        return seconds

    def evict(self) -> None:
        """Write twice the size of the GPU's L2 cache."""
        self._evicting.copy_from(self._zeros, self.stream)


@functools.cache
def device_clock(device: int = 0, stream: int = 0) -> DeviceClock:
    """The clock of a GPU's stream.

    Raises:
        Unsupported: there is no CUDA build, driver or GPU; the sentence says which.
    """
    return DeviceClock(device, stream)


@functools.cache
def host_clock() -> HostClock:
    """The host's clock, with resolution and costs measured at first use (about 5 ms)."""
    reads = [time.perf_counter_ns() for _ in range(2000)]
    steps = [after - before for before, after in itertools.pairwise(reads) if after > before]
    empty = [_time(_nothing, 0) for _ in range(200)]
    calls = [_time(_nothing, 1000) / 1000 for _ in range(20)]
    return HostClock(resolution_seconds=min(steps) * 1e-9, cost_seconds=median(empty), call_seconds=median(calls))


def _time(call: Callable[[], Any], count: int) -> float:
    repeat = itertools.repeat(None, count)  # the cheapest loop Python has
    begin = time.perf_counter_ns()
    for _ in repeat:
        call()
    return (time.perf_counter_ns() - begin) * 1e-9


def _nothing() -> None:
    pass
