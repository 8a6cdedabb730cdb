"""The all-reduces of a run beside what bounds them, for every format: algbw, busbw, share of the bound, line latency.

The bound is memory traffic: each rank reads its vector and writes the result, 2 bytes for each byte of the vector, and
a copy by as many ranks at once tells how fast that goes. So the share is 2·algbw / (bytes per second of a rank's copy),
where the plan has measured such a copy ("ceilings" of algbw); between nodes the network bounds it further.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from pyhpc.acceptance.plan import Plan
from pyhpc.measure.measurement import Measurement, Record


class Collective(Record):
    """One case, all its attempts together; medians."""

    step: str
    case: str
    ranks: int
    message_bytes: int  # of one rank's vector
    order: str
    buffer: str
    seconds: float
    algbw: float  # bytes per second
    busbw: float | None  # bytes per second; None on one rank
    share_of_bound: float | None  # None where nothing measured a copy
    line_latency_seconds: float | None  # of a cache line between two cores of a node; None: no node has two ranks

    @property
    def cells(self) -> tuple[str, ...]:
        """As a table's row: what HEADINGS say."""
        bus = "n/a" if self.busbw is None else f"{self.busbw / 1e9:.4g}"
        share = "" if self.share_of_bound is None else f"{100 * self.share_of_bound:.1f}"
        line = "" if self.line_latency_seconds is None else f"{self.line_latency_seconds * 1e9:.0f}"
        numbers = (f"{self.seconds * 1e6:.4g}", f"{self.algbw / 1e9:.4g}", bus, share, line)
        return (f"{self.step}: {self.case}", str(self.message_bytes), *numbers)


HEADINGS = ("case", "bytes", "time (us)", "algbw (GB/s)", "busbw (GB/s)", "% of bound", "cache line (ns)")


def collectives(plan: Plan, measurements: Sequence[Measurement]) -> tuple[Collective, ...]:
    """Every all-reduce that was measured and is right, in the plan's order."""
    found: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        if measurement.error is None and not measurement.verification.wrong_samples:
            found[f"{measurement.step}/{measurement.case}"].append(measurement)

    def middle(key: str, metric: str) -> float | None:
        values = [value for m in found[key] if metric in m.metrics for value in m.metrics[metric].values]
        return median(values) if values else None

    rows = []
    for step in plan.steps:
        for case in step.cases:
            key = f"{step.name}/{case.name}"
            seconds, algbw = middle(key, "seconds"), middle(key, "algbw")
            if case.kernel != "allreduce" or seconds is None or algbw is None:
                continue
            copy = middle(case.ceilings["algbw"], "bytes_per_second") if "algbw" in case.ceilings else None
            lines = [value for m in found[key] for value in m.conditions.line_latency_seconds]
            rows.append(
                Collective(
                    step=step.name,
                    case=case.name,
                    ranks=step.ranks,
                    message_bytes=case.message_bytes,
                    order=str(case.problem.get("order", "fast")),
                    buffer=str(case.problem.get("buffer", "ordinary")),
                    seconds=seconds,
                    algbw=algbw,
                    busbw=middle(key, "busbw"),
                    share_of_bound=None if copy is None else 2 * algbw / copy,
                    line_latency_seconds=median(lines) if lines else None,
                )
            )
    return tuple(rows)
