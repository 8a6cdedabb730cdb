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
