"""Stage 4, judge: plan + records → verdicts. Pure: no numpy, no MPI, no clock, no files.

Each planned case owes one record per attempt from each subject (each rank, or all ranks together), and gets

    one verdict on completeness and correctness (proof.py): recorded as planned, each timed result verified, consistent;
    one verdict on each limit: pass if the whole confidence interval of the statistic satisfies it, fail if the whole
    interval violates it, else inconclusive, which asks the run stage for more samples.

What is missing, skipped, empty, unverified or impossibly good never passes, and no limit carries slack.

A rate limited relative to a measured ceiling is compared with it twice. `at_least`: the ratio to the ceiling's median,
each interval at half the risk (Bonferroni). `at_most`: the ratio to its fastest sample, because interference only
slows, so the fastest is the best witness of what is possible; a rate without a bound of its own may not exceed it
either. The ceiling pools all subjects: a slow node must not be measured by its own slow ceiling.

Attempts are pooled; exact copies of a record count once (a resumed run may hold two), different records of one attempt
are an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from pyhpc.acceptance.config import LOWER_IS_BETTER, METRIC_UNITS, Limit
from pyhpc.acceptance.plan import Case, Plan, Step, applies
from pyhpc.acceptance.proof import Finding, Outcome, examine, times_of, values_of
from pyhpc.measure.measurement import Measurement, Record, Subject
from pyhpc.measure.statistics import Interval, interval, ratio


class Verdict(Record):
    """What is said of one limit (or of the correctness) of one case on one subject."""

    step: str
    case: str
    subject: Subject | None  # None: nobody measured it
    limit: Limit | None  # None: the verdict on correctness and completeness of the case itself
    outcome: Outcome
    reason: str  # one sentence that names who, what, how much of how much
    required: bool = True
    samples: int = 0
    value: float | None = None  # the statistic, in the limit's unit
    low: float | None = None  # its confidence interval, in the limit's unit
    high: float | None = None
    confidence: float | None = None
    exceeds: str | None = None  # the measured ceiling ("step/case") that the value exceeds by more than is believed


Owed = dict[int, list[Measurement]]  # subject (as in Step.subjects) → its records, by attempt


def judge(plan: Plan, measurements: Iterable[Measurement]) -> tuple[Verdict, ...]:
    """Every verdict that the plan owes, in the plan's order. Records of nothing planned are not looked at."""
    records: dict[tuple[str, str], Owed] = {}
    for measurement in measurements:
        step_name, case_name, rank = measurement.key
        same = records.setdefault((step_name, case_name), {}).setdefault(rank, [])
        if measurement not in same:
            same.append(measurement)
    verdicts: list[Verdict] = []
    ceilings: dict[str, list[Measurement]] = {}  # "step/case" → the sound records, from all subjects
    for step in plan.steps:
        for case in step.cases:
            owed = records.get((step.name, case.name), {})
            findings = _findings(step, case, owed)
            ceilings[f"{step.name}/{case.name}"] = [
                record for rank, finding in findings.items() if finding.outcome == "pass" for record in owed[rank]
            ]
            verdicts += [_verdict_on_case(step, case, owed.get(rank, []), f) for rank, f in findings.items()]
            for limit in step.limits:
                if applies(limit, case):
                    verdicts += _verdicts_on_limit(step, case, limit, owed, findings, ceilings)
    return tuple(verdicts)


def _findings(step: Step, case: Case, owed: Owed) -> dict[int, Finding]:
    """What the records of a case say for themselves, for every subject that owes one or has one."""
    skip = step.skip or case.skip
    if skip:
        return dict.fromkeys(step.subjects, Finding("skip", f"{case.name} cannot run here: {skip}"))
    strangers = sorted(set(owed) - set(step.subjects))
    unplanned = f"{case.name}: a record says rank {{}}, which the plan does not have"
    return {rank: examine(step, case, rank, owed.get(rank, [])) for rank in step.subjects} | {
        rank: Finding("error", unplanned.format(rank)) for rank in strangers
    }


def _verdict_on_case(step: Step, case: Case, records: list[Measurement], finding: Finding) -> Verdict:
    return Verdict(
        step=step.name,
        case=case.name,
        subject=records[0].subject if records else None,
        limit=None,
        outcome=finding.outcome,
        reason=finding.reason,
        required=step.required,
        samples=sum(len(next(iter(record.seconds.values()), ())) for record in records),
    )


def _verdicts_on_limit(
    step: Step,
    case: Case,
    limit: Limit,
    owed: Owed,
    findings: dict[int, Finding],
    ceilings: dict[str, list[Measurement]],
) -> list[Verdict]:
    """The verdict on one limit for each subject."""
    key = case.ceilings.get(limit.metric)
    above = [value for record in ceilings.get(key or "", []) for value in _ceiling_values(record)]
    sound = {rank for rank, finding in findings.items() if finding.outcome in ("pass", "inconclusive")}
    pooled = {rank: _pool(owed[rank], limit.metric, case) for rank in sound}
    found = []
    for rank, finding in findings.items():
        if rank not in sound:
            outcome: Outcome = "skip" if finding.outcome == "skip" else "error"
            said = _Said(outcome, f"{limit.metric} is not judged: {finding.reason}")
        else:
            who = str(owed[rank][0].subject) if rank >= 0 else f"all {step.ranks} ranks"
            said = _compare(f"{who}, {case.name}", pooled[rank], above, key, limit)
            if said.outcome == "fail" and rank >= 0:
                peers = [median(pooled[other]) for other in sound if other != rank and pooled[other]]
                said = said.beside(median(pooled[rank]), peers)
        found.append(said.verdict(step, case, limit, owed.get(rank, [])))
    return found


def _pool(records: list[Measurement], metric: str, case: Case) -> list[float]:
    return [value for record in records for value in values_of(record, metric, case) or ()]


def _ceiling_values(record: Measurement) -> list[float]:
    """A ceiling's samples: a peak case is a rate of operations, a memory case a rate of bytes."""
    work = record.flops if record.kernel == "peak" else record.bytes
    return [work / seconds for seconds in times_of(record)]


@dataclass(frozen=True)
class _Said:
    """An outcome on the way to a verdict."""

    outcome: Outcome
    reason: str
    interval: Interval | None = None
    exceeds: str | None = None

    def beside(self, own: float, peers: list[float]) -> _Said:
        """The same, with how far this subject is from the others."""
        if not peers:
            return self
        usual = median(peers)
        side = "below" if own < usual else "above"
        told = f"{100 * abs(own - usual) / usual:.0f} % {side} the median of the other {len(peers)}"
        return _Said(self.outcome, f"{self.reason}; it is {told}", self.interval, self.exceeds)

    def verdict(self, step: Step, case: Case, limit: Limit, records: list[Measurement]) -> Verdict:
        """The verdict that says so."""
        found = self.interval
        return Verdict(
            step=step.name,
            case=case.name,
            subject=records[0].subject if records else None,
            limit=limit,
            outcome=self.outcome,
            reason=self.reason,
            required=step.required and limit.required,
            samples=found.samples if found else 0,
            value=found.value if found else None,
            low=found.low if found else None,
            high=found.high if found else None,
            confidence=limit.confidence if found else None,
            exceeds=self.exceeds,
        )


def _compare(what: str, values: list[float], above: list[float], key: str | None, limit: Limit) -> _Said:
    """One limit against the samples of one subject; `above` are the samples of its ceiling."""
    if not values:
        return _Said("error", f"{what}: the record has no {limit.metric}")
    if limit.of == "ceiling" and not above:
        return _Said("error", f"{what}: its ceiling {key or limit.metric} was not measured soundly")
    own = interval(values, limit.statistic, limit.confidence)
    if limit.of == "ceiling":
        found = ratio(values, above, limit.statistic, limit.confidence)
    else:
        found = _divided(own, METRIC_UNITS[limit.metric][limit.unit])
        useless = _useless(limit, above)
        if useless:
            return _Said("error", f"{what}: {useless}", found)
    told = f"{what}: {_told(found, limit)}"
    of_fastest = _divided(own, max(above)) if above else None
    if doubts := _doubts(limit, found):
        return _Said("fail", f"{told}, which is impossibly good: {doubts}", found)
    bound = limit.at_most if limit.of and limit.at_most else 1.0
    own_bound = limit.metric in LOWER_IS_BETTER or (limit.at_most is not None and limit.of is None)
    if not own_bound and of_fastest is not None and _at_most(of_fastest, bound) == "fail":
        doubts = f"{of_fastest.value:.3g} times the fastest sample of its ceiling {key}, above {bound:g}"
        return _Said("fail", f"{told}, which is impossibly good: {doubts}", found, exceeds=key)
    upper = of_fastest if limit.of and of_fastest else found
    checks = [_at_least(found, limit.at_least), _at_most(upper, limit.at_most)]
    wanted = " and ".join(
        f"{name} {bound:g}" for name, bound in (("at least", limit.at_least), ("at most", limit.at_most)) if bound
    )
    unit = "of its ceiling" if limit.of else limit.unit
    if "fail" in checks:
        return _Said("fail", f"{told}, and must be {wanted} {unit}", found)
    if "inconclusive" in checks:
        return _Said("inconclusive", f"{told}: too uncertain to say whether it is {wanted} {unit}", found)
    return _Said("pass", f"{told}, as demanded: {wanted} {unit}", found)


def _doubts(limit: Limit, found: Interval) -> str | None:
    """Why a result is too good to be believed by the limit's own number, or None."""
    if limit.metric in LOWER_IS_BETTER:
        if _at_least(found, limit.at_least) == "fail":
            return f"nothing can be faster than {limit.at_least:g} {limit.unit}"
    elif limit.at_most is not None and limit.of is None and _at_most(found, limit.at_most) == "fail":
        return f"above {limit.at_most:g} {limit.unit} it is not believed"
    return None


def _useless(limit: Limit, above: list[float]) -> str | None:
    """Why an absolute limit judges nothing or cannot be met on this machine, seen from the measured ceiling."""
    if limit.at_least is None or not above or limit.metric not in ("flops_per_second", "bytes_per_second"):
        return None
    wanted, ceiling = limit.at_least * METRIC_UNITS[limit.metric][limit.unit], median(above)
    if wanted * 1000 < ceiling:
        part = wanted / ceiling
        return (
            f"at_least {limit.at_least:g} {limit.unit} is {part:.1g} of the measured ceiling and limits nothing (unit?)"
        )
    return None


def _at_least(found: Interval, bound: float | None) -> Outcome:
    if bound is None or (found.low is not None and found.low >= bound):
        return "pass"
    return "fail" if found.high is not None and found.high < bound else "inconclusive"


def _at_most(found: Interval, bound: float | None) -> Outcome:
    if bound is None or (found.high is not None and found.high <= bound):
        return "pass"
    return "fail" if found.low is not None and found.low > bound else "inconclusive"


def _divided(found: Interval, factor: float) -> Interval:
    scaled = {
        side: None if value is None else value / factor
        for side, value in (("value", found.value), ("low", found.low), ("high", found.high))
    }
    return found.model_copy(update=scaled)


def _told(found: Interval, limit: Limit) -> str:
    unit = "of its ceiling" if limit.of else limit.unit
    sides = ["unbounded" if side is None or math.isinf(side) else f"{side:.4g}" for side in (found.low, found.high)]
    return (
        f"{limit.statistic} {limit.metric} is {found.value:.4g} {unit} "
        f"({100 * limit.confidence:g} % interval {sides[0]} to {sides[1]}, {found.samples} samples)"
    )
