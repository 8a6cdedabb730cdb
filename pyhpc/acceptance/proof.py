"""What a record proves before any limit: that it is the planned measurement, whole, verified, free of contradictions.

Nothing is trusted that can be checked. The raw times are the only numbers taken as given; every metric is computed
again from them and the plan's work model, and must agree with what the record says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyhpc.acceptance.plan import Case, Step, alike
from pyhpc.measure.measurement import Measurement

Outcome = Literal["pass", "fail", "inconclusive", "error", "skip"]

_UNITS = {"seconds": "s", "line_latency": "s", "flops_per_second": "flop/s"}  # all others: B/s
_ROUNDING = 1e-9  # relative; JSON keeps every digit, so only the order of operations may differ


@dataclass(frozen=True)
class Finding:
    """What was found about one subject's records of one case."""

    outcome: Outcome
    reason: str


def examine(step: Step, case: Case, rank: int, records: list[Measurement]) -> Finding:
    """The verdict on completeness and correctness. Wrong numbers outrank everything: they must not be missed."""
    who = f"rank {rank}" if rank >= 0 else f"all {step.ranks} ranks"
    if not records:
        return Finding("error", f"{who} left no record of {case.name}: it was not measured")
    for record in records:
        wrong = _wrong(record)
        if wrong:
            who = "" if str(record.subject) in wrong or step.collective else f"{record.subject}, "
            return Finding("fail", f"{who}{case.name}: {wrong}")
    for record in records:
        broken = record.error or _misfit(step, case, record) or _gap(record) or _contradiction(case, record)
        if broken:
            told = broken if record.error else f"{record.subject}, {case.name}, attempt {record.attempt}: {broken}"
            return Finding("error", told)
    attempts = sorted(record.attempt for record in records)
    if attempts != list(range(1, len(attempts) + 1)):
        return Finding(
            "error", f"{who}, {case.name}: the records are of the attempts {attempts}: one is missing or double"
        )
    count = sum(len(times_of(record)) for record in records)
    who = str(records[0].subject) if rank >= 0 else who
    if count < step.sampling.min_samples:
        return Finding(
            "inconclusive", f"{who}, {case.name}: {count} samples, and {step.sampling.min_samples} are needed"
        )
    return Finding("pass", f"{who}, {case.name}: all {count} timed results verified ({records[0].verification.method})")


def times_of(record: Measurement) -> tuple[float, ...]:
    """Seconds of each sample: a collective takes as long as its slowest rank."""
    return tuple(max(times) for times in zip(*record.seconds.values(), strict=False))


def values_of(record: Measurement, metric: str, case: Case) -> Sequence[float] | None:
    """The samples of a metric, or None if the record has none. "line_latency" alone is not computed from the times."""
    if metric not in record.metrics:
        return None
    work = _work(record, metric, case)
    if metric == "line_latency":
        return record.metrics[metric].values
    return times_of(record) if metric == "seconds" else tuple(work / seconds for seconds in times_of(record))


def _work(record: Measurement, metric: str, case: Case) -> float:
    """What one execution does, in the numerator's unit of the metric."""
    ring = 2 * (record.ranks - 1) / record.ranks  # nccl-tests, doc/PERFORMANCE.md
    return {
        "flops_per_second": case.flops,
        "bytes_per_second": case.bytes,
        "algbw": case.message_bytes,
        "busbw": case.message_bytes * ring,
    }.get(metric, 0.0)


def _wrong(record: Measurement) -> str | None:
    """In what the results are wrong."""
    proof = record.verification
    if proof.wrong_samples or proof.wrong_elements:
        where = proof.first_wrong or f"{proof.wrong_elements} wrong elements"
        return f"{max(1, proof.wrong_samples)} of {max(1, proof.samples)} timed results are wrong: {where}"
    if proof.first_wrong:
        return f"a result is wrong: {proof.first_wrong}"
    if not proof.worst <= 1:
        return f"the error of the result is {proof.worst:.3g} times the tolerance ({proof.method})"
    return None


def _misfit(step: Step, case: Case, record: Measurement) -> str | None:
    """In what the record is not the planned measurement."""
    planned = {
        "kernel": case.kernel,
        "variant": case.variant,
        "problem": case.problem,
        "flops": case.flops,
        "bytes": case.bytes,
        "ranks": step.ranks if step.collective else 1,
    }
    for name, value in planned.items():
        found = getattr(record, name)
        if not alike(found, value):
            return f"the record is of {name} {found!r}, planned was {value!r}"
    place = record.subject.device.partition(":")[0]
    if place != case.device:
        return f"it was measured on {place}, planned was {case.device}"
    if not 0 <= record.subject.rank < step.ranks or not record.subject.host:
        return f"the record is of {record.subject}, which is nobody in this step"
    ranks = tuple(range(step.ranks)) if step.collective else (record.subject.rank,)
    if tuple(sorted(record.seconds)) != ranks:
        missing = sorted(set(ranks) - set(record.seconds))
        return f"there are times of {len(record.seconds)} of {len(ranks)} ranks; missing: {missing[:8]}"
    return None


def _gap(record: Measurement) -> str | None:
    """What was not measured or not verified."""
    if "seconds" not in record.metrics:
        return "the record has lost its metrics"
    counts = {len(times) for times in record.seconds.values()}
    if counts == {0}:
        return "there are no samples"
    if len(counts) != 1:
        return "the ranks have different numbers of samples"
    for rank, times in record.seconds.items():
        for index, seconds in enumerate(times):
            if not (math.isfinite(seconds) and seconds > 0):
                return f"sample {index} of rank {rank} took {seconds} s, which is no time"
    timed, verified = next(iter(counts)), record.verification.samples
    if verified == 0 or not record.verification.method:
        return "the results were not verified"
    if verified != timed:
        return f"{verified} results were verified and {timed} were timed"
    return None


def _contradiction(case: Case, record: Measurement) -> str | None:
    """Where a stored metric is not what the raw times say."""
    for metric, series in record.metrics.items():
        if series.unit != _UNITS.get(metric, "B/s"):
            return f"{metric} is in {series.unit!r}"
        values = values_of(record, metric, case) or ()
        if len(series.values) != len(values):
            return f"{metric} has {len(series.values)} values for {len(times_of(record))} samples"
        for index, (stored, derived) in enumerate(zip(series.values, values, strict=True)):
            if not math.isclose(stored, derived, rel_tol=_ROUNDING):
                return f"{metric} of sample {index} is {stored:g} and the times say {derived:g}"
    return None
