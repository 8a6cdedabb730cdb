"""Take samples of one call: warm up until steady, time, verify, stop when the median is known well enough.

    repeat:  prepare()  [evict caches]   t = time of call() × batch   samples += t / batch   check()

Only `call` is inside the timed region; `prepare` (poison the output) and `check` (the result equals the verified one
bit for bit) are outside it, for every sample. A call too short for the clock is repeated `batch` times in one sample,
and the last of its results is checked.

Sampling stops when the 95 % confidence interval of the median is narrower than asked, when the budget is spent or when
there are enough samples; which of them is recorded, and every raw sample is kept, in order. The rule looks at the width
alone, never at the value, and only after every tenth more samples, so that it hardly favours any outcome.

Knows nothing about kernels, arrays or MPI: for a call that all ranks make together, `agree` turns each decision into a
common one, so that no rank waits for a call that another has stopped making.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from pyhpc.errors import MeasurementError
from pyhpc.measure.clock import Clock, host_clock
from pyhpc.measure.measurement import Sampling
from pyhpc.measure.statistics import interval

Stop = Literal["width", "budget", "max_samples"]

_CLOCK_SHARE = 0.01  # of a sample that clock resolution and cost may make up
_MAX_BATCH = 1_000_000
_STEADY = 0.03  # two windows agree when their medians differ by less
_WINDOW_CALLS, _WINDOW_SECONDS = 3, 2e-3  # a window of the warm-up has at least so many calls, and lasts so long
_WARM_UP_SHARE = 0.25  # of the budget that the warm-up may take


@dataclass(frozen=True)
class Samples:
    """Every raw sample, and how it was taken."""

    seconds: tuple[float, ...]  # of one execution, in the order taken
    batch: int  # executions per sample
    wrong: tuple[int, ...]  # the samples whose result `check` refused
    warm_up: int  # executions before the first sample
    steady: bool  # whether the warm-up ended because two windows agreed, not because its time was over
    stopped: Stop  # why sampling ended
    elapsed_seconds: float  # of everything: warm-up, preparing, timing, checking
    resolution_seconds: float  # of the clock
    call_seconds: float  # what calling from Python adds to each execution; contained in `seconds`


@dataclass
class _Session:
    """One sampling in progress: what is called, under which rules, and how long it has taken."""

    call: Callable[[], Any]
    prepare: Callable[[], Any]
    sampling: Sampling
    clock: Clock
    agree: Callable[[float], float]
    look: int = 0  # the sample count at which the width is looked at next
    began: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def once(self, batch: int = 1) -> float:
        """Seconds of one execution, after preparing it."""
        self.prepare()
        if self.sampling.cache == "cold":
            self.clock.evict()
        return self.clock.time(self.call, batch) / batch


def sample(
    call: Callable[[], Any],
    prepare: Callable[[], Any],
    check: Callable[[], bool],
    sampling: Sampling | None = None,
    clock: Clock | None = None,
    agree: Callable[[float], float] | None = None,
) -> Samples:
    """Sample how long `call()` takes.

    Args:
        call: the work to time; on a GPU it may only enqueue, the device clock waits.
        prepare: before every sample, untimed; it must make an execution that writes nothing detectable.
        check: after every sample, untimed: whether the result is right.
        sampling: when to stop, and whether caches are warm or cold. Cold samples are never batched.
        clock: `host_clock()` unless given.
        agree: the largest of a number over all ranks (a collective call); alone: the number itself.

    Raises:
        MeasurementError: the clock showed no time for the largest batch, or went backwards.
        Whatever `call`, `prepare` and `check` raise.
    """
    rules = sampling or Sampling()
    session = _Session(call, prepare, rules, clock or host_clock(), agree or _alone)
    seconds: list[float] = []
    wrong: list[int] = []
    with _no_collection():
        warm_up, typical, steady = _warm_up(session)
        batch = _batch(session, typical)
        began = session.elapsed
        stopped: Stop | None = None
        while stopped is None:
            seconds.append(session.once(batch))
            if not check():
                wrong.append(len(seconds) - 1)
            stopped = _stop(session, seconds, session.elapsed - began)
    if min(seconds) <= 0:
        raise MeasurementError(f"the clock showed {min(seconds)} s for {batch} executions: nothing was timed")
    return Samples(
        seconds=tuple(seconds),
        batch=batch,
        wrong=tuple(wrong),
        warm_up=warm_up,
        steady=steady,
        stopped=stopped,
        elapsed_seconds=session.elapsed,
        resolution_seconds=session.clock.resolution_seconds,
        call_seconds=session.clock.call_seconds,
    )


def _warm_up(session: _Session) -> tuple[int, float, bool]:
    """Execute until the medians of two windows in a row agree: (executions, typical seconds, whether they agreed).

    The first execution pays for page faults, code and thread start, and counts for nothing. The warm-up ends unsteady
    after its share of the budget.
    """
    limit = session.sampling.budget_seconds * _WARM_UP_SHARE
    executions, typical, before = 1, session.once(), math.inf
    while session.agree(session.elapsed) < limit:
        window: list[float] = []
        began = session.elapsed
        while len(window) < _WINDOW_CALLS or session.agree(session.elapsed - began) < _WINDOW_SECONDS:
            window.append(session.once())
            if session.agree(session.elapsed) >= limit:
                break
        executions += len(window)
        typical = median(window)
        if session.agree(float(abs(typical - before) > _STEADY * typical)) == 0:
            return executions, typical, True
        before = typical
    return executions, typical, False


def _batch(session: _Session, typical: float) -> int:
    """Executions per sample, so that resolution and cost of the clock stay below their share of it."""
    if session.sampling.cache == "cold":
        return 1
    wanted = (session.clock.resolution_seconds + session.clock.cost_seconds) / _CLOCK_SHARE
    return int(session.agree(float(max(1, min(_MAX_BATCH, math.ceil(wanted / max(typical, 1e-9)))))))


def _stop(session: _Session, seconds: list[float], elapsed: float) -> Stop | None:
    """Why to stop now, or None; the same on every rank."""
    rules, count = session.sampling, len(seconds)
    if count < min(rules.min_samples, rules.max_samples):
        return None
    if count >= rules.max_samples:
        return "max_samples"
    if session.agree(elapsed) >= rules.budget_seconds:
        return "budget"
    if count < session.look:
        return None
    session.look = count + max(1, count // 10)
    width = interval(seconds).relative_width
    narrow = width is not None and width <= rules.relative_width
    return "width" if session.agree(float(not narrow)) == 0 else None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's garbage collector, whose pauses would land in single samples."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _alone(value: float) -> float:
    return value
