"""What a comparison found: every raw sample of every contestant, and the figures derived from them.

The unit of replication is the round: samples of one round share clock, placement and neighbours, so a contestant's
value is the median of its round medians, with the distribution-free interval of those. Ratios are formed inside each
round, where numerator and denominator were taken a moment apart, and then treated alike: a drifting clock cancels.

A ceiling is what the machine can do at best, and everything that disturbs it only lowers it: its value in a round is
its fastest sample, not the median. A fraction above 1 all the same means that the ceiling was disturbed throughout.
"""

from __future__ import annotations

from statistics import median
from typing import Any, Literal

from pydantic import Field

from pyhpc.machine import Machine
from pyhpc.measure.measurement import Conditions, Record
from pyhpc.measure.statistics import Interval, interval

SCHEMA_VERSION = 1
Kind = Literal["ours", "peer", "ceiling"]


class Round(Record):
    """What one contestant did in one round."""

    index: int
    seconds: tuple[float, ...]  # raw samples of one execution
    batch: int
    steady: bool
    conditions: Conditions


class Row(Record):
    """One contestant on one problem with one number of threads."""

    contestant: str
    kind: Kind
    kernel: str
    label: str
    problem: dict[str, Any]
    threads: int
    flops: int
    bytes: int
    rounds: tuple[Round, ...] = ()
    device: str = "cpu"  # or the GPU with its UUID; the ceilings are the processor's
    library: str = ""  # what really computed: "OpenBLAS SkylakeX"
    verification: str = ""
    error: str | None = None  # why there is no figure; one sentence
    seconds: Interval | None = None
    speedup: Interval | None = None  # time of the best peer / own time, by rounds; above 1 is faster
    best_peer: str = ""
    of_limit: Interval | None = None  # the limit's time / own time, by rounds
    limit: str = ""  # the measured ceiling that bounds this problem: "peak float32", "memory read DRAM"

    @property
    def rate(self) -> float | None:
        """Work per second."""
        return None if self.seconds is None else self.work / self.seconds.value

    @property
    def work(self) -> int:
        """What the rate counts: operations, or bytes of a kernel that moves data."""
        return self.bytes if self.kernel == "memory" else self.flops

    @property
    def rate_bounds(self) -> tuple[float, float] | None:
        """The rate's confidence interval."""
        found = self.seconds
        if found is None or found.low is None or found.high is None:
            return None
        return self.work / found.high, self.work / found.low

    @property
    def line_latency_seconds(self) -> float | None:
        """Median placement during this row's rounds; None on one core."""
        values = [value for found in self.rounds for value in found.conditions.line_latency_seconds]
        return median(values) if values else None

    @property
    def other_cpu_fraction(self) -> float | None:
        """Median share of the cores that other processes took while this row was sampled."""
        found = [known for entry in self.rounds if (known := entry.conditions.other_cpu_fraction) is not None]
        return median(found) if found else None


class Comparison(Record):
    """All rows, grouped by (threads, problem) in the order measured."""

    schema_version: int = SCHEMA_VERSION
    kernel: str
    machine: Machine
    contestants: tuple[str, ...]
    rounds: int
    started: float  # Unix seconds
    finished: float
    rows: tuple[Row, ...] = Field(default=())

    def groups(self) -> dict[tuple[int, str], list[Row]]:
        """(threads, problem label) → its rows."""
        found: dict[tuple[int, str], list[Row]] = {}
        for row in self.rows:
            label = row.label if row.kind != "ceiling" else row.problem["for"]
            found.setdefault((row.threads, label), []).append(row)
        return found


def summarise(rows: list[Row], cache_bytes: int) -> list[Row]:
    """The rows of one group with `seconds`, `speedup` and `of_limit` filled in from their rounds."""
    timed = [row for row in rows if row.error is None and row.rounds]
    peers = {row.contestant: row for row in timed if row.kind == "peer"}
    best = min(peers.values(), key=lambda row: median(_values(row).values()), default=None)
    ceilings = [row for row in timed if row.kind == "ceiling"]
    return [_summary(row, best, ceilings, cache_bytes) if row in timed else row for row in rows]


def _summary(row: Row, best: Row | None, ceilings: list[Row], cache_bytes: int) -> Row:
    update: dict[str, Any] = {"seconds": interval(list(_values(row).values()))}
    if row.kind == "ceiling":
        return row.model_copy(update=update)
    if best is not None:
        update |= {"speedup": _paired(_values(best), _values(row)), "best_peer": best.contestant}
    limit = _limit(row, ceilings, cache_bytes) if row.device == "cpu" else None
    if limit is not None:
        update |= {"of_limit": _paired(limit[1], _values(row)), "limit": limit[0]}
    return row.model_copy(update=update)


def _limit(row: Row, ceilings: list[Row], cache_bytes: int) -> tuple[str, dict[int, float]] | None:
    """The ceiling that allows least: its name, and by round the seconds it allows this row's work in.

    Memory bounds only what does not fit the caches: smaller operands are read from there again.
    """
    allowed = []
    for ceiling in ceilings:
        if ceiling.kernel == "memory" and row.bytes <= cache_bytes:
            continue
        work = row.bytes / ceiling.bytes if ceiling.kernel == "memory" else row.flops / ceiling.flops
        times = {index: work * seconds for index, seconds in _values(ceiling).items()}
        allowed.append((f"{ceiling.contestant} {ceiling.label}", times))
    return max(allowed, key=lambda pair: median(pair[1].values()), default=None)


def _values(row: Row) -> dict[int, float]:
    """Round → its value."""
    if row.kind == "ceiling":
        return {found.index: min(found.seconds) for found in row.rounds}
    return {found.index: median(found.seconds) for found in row.rounds}


def _paired(numerator: dict[int, float], denominator: dict[int, float]) -> Interval | None:
    """Interval of the ratios of the rounds that both have."""
    ratios = [numerator[index] / denominator[index] for index in numerator if index in denominator]
    return interval(ratios) if ratios else None
