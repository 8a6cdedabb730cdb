"""Stage 5, report: verdicts → `Report`, and the one word both parties sign. Pure, like judge.

ACCEPTED     every required verdict passes, and every required case was measured and verified on everybody
REJECTED     a required verdict fails
INCOMPLETE   neither: something is missing, errored, was skipped or is too uncertain to say
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pyhpc.acceptance import records
from pyhpc.acceptance.collectives import Collective, collectives
from pyhpc.acceptance.judge import Verdict
from pyhpc.acceptance.plan import Plan, read_plan
from pyhpc.errors import RunError
from pyhpc.measure.measurement import Measurement, Record

Answer = Literal["ACCEPTED", "REJECTED", "INCOMPLETE"]
EXIT_STATUS: dict[str, int] = {"ACCEPTED": 0, "REJECTED": 1, "INCOMPLETE": 3}  # 2 is wrong usage
SCHEMA_VERSION = 1


class Coverage(Record):
    """How much of what was planned was measured and verified."""

    steps: int
    steps_measured: int
    cases: int  # (case, subject) pairs planned and required
    cases_measured: int
    nodes: int
    nodes_measured: int
    missing: tuple[str, ...] = ()  # one sentence each

    @property
    def complete(self) -> bool:
        """Whether every required case was measured on everybody."""
        return self.cases > 0 and self.cases == self.cases_measured and not self.missing


class Report(Record):
    """All that a format needs; formats render and never compute a verdict."""

    schema_version: int = SCHEMA_VERSION
    answer: Answer
    sentence: str  # why, in one sentence
    coverage: Coverage
    plan: Plan
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    collectives: tuple[Collective, ...] = ()
    command: str  # how to reproduce
    run_folder: str
    started: float
    finished: float
    notes: tuple[str, ...] = ()  # what the reader should know and no verdict says: damaged lines, foreign records


class StoredRun(Record):
    """What a run folder holds."""

    plan: Plan
    measurements: tuple[Measurement, ...]
    damaged: tuple[str, ...]  # one sentence a line that could not be read; what it held is missing


def load_run(folder: Path) -> StoredRun:
    """Read a run folder. A torn or damaged line is reported and does not count.

    Raises:
        RunError: there is no run, its plan is damaged, or it cannot be read.
    """
    plan = read_plan(folder)
    try:
        measurements, damaged = records.load(folder)
    except OSError as error:
        raise RunError(f"the records in {folder} cannot be read: {error.strerror or error}") from error
    return StoredRun(plan=plan, measurements=tuple(measurements), damaged=tuple(damaged))


def make_report(
    plan: Plan,
    measurements: Sequence[Measurement],
    verdicts: Sequence[Verdict],
    folder: Path | str,
    command: str,
    damaged: Iterable[str] = (),
) -> Report:
    """Put the verdicts together into the answer."""
    covered = coverage(plan, measurements, verdicts)
    answer, sentence = _answer(verdicts, covered)
    planned = {(step.name, case.name) for step in plan.steps for case in step.cases}
    foreign = sum((m.step, m.case) not in planned for m in measurements)
    notes = [*damaged, f"{foreign} record(s) are of nothing planned and were not judged"] if foreign else list(damaged)
    return Report(
        answer=answer,
        sentence=sentence,
        coverage=covered,
        plan=plan,
        measurements=tuple(measurements),
        verdicts=tuple(verdicts),
        collectives=collectives(plan, measurements),
        command=command,
        run_folder=str(folder),
        started=plan.created,
        finished=max([plan.created, *(m.finished for m in measurements)]),
        notes=tuple(notes),
    )


def coverage(plan: Plan, measurements: Sequence[Measurement], verdicts: Sequence[Verdict]) -> Coverage:
    """What the required steps owed and what arrived: a case counts when its results were checked, right or wrong."""
    owed = [(step, case) for step in plan.steps if step.required for case in step.cases]
    on_cases = [verdict for verdict in verdicts if verdict.limit is None and verdict.required]
    measured = [verdict for verdict in on_cases if verdict.outcome in ("pass", "fail")]
    missing = [verdict.reason for verdict in on_cases if verdict not in measured]
    judged = {(verdict.step, verdict.case) for verdict in on_cases}
    missing += [
        f"{step.name}: nothing is said of {case.name}" for step, case in owed if (step.name, case.name) not in judged
    ]
    steps = {step.name for step, _ in owed}
    unmeasured = {verdict.step for verdict in on_cases if verdict not in measured}
    nodes = _nodes_measured(plan, measurements, measured)
    if nodes < plan.nodes:
        missing.append(f"{nodes} of {plan.nodes} nodes were measured")
    return Coverage(
        steps=len(steps),
        steps_measured=len(steps & {verdict.step for verdict in measured} - unmeasured),
        cases=sum(len(step.subjects) for step, _ in owed),
        cases_measured=len(measured),
        nodes=plan.nodes,
        nodes_measured=nodes,
        missing=tuple(missing),
    )


def _nodes_measured(plan: Plan, measurements: Sequence[Measurement], measured: Sequence[Verdict]) -> int:
    """Nodes with a measured case; one of all ranks together is sound only with all of them, so it covers every node."""
    cases = {(verdict.step, verdict.case) for verdict in measured}
    if any(step.collective and step.ranks > 1 and step.name in {name for name, _ in cases} for step in plan.steps):
        return plan.nodes
    hosts = {m.subject.host for m in measurements if (m.step, m.case) in cases and m.error is None}
    return min(len(hosts), plan.nodes)


def _answer(verdicts: Sequence[Verdict], covered: Coverage) -> tuple[Answer, str]:
    required = [verdict for verdict in verdicts if verdict.required]
    failed = [verdict for verdict in required if verdict.outcome == "fail"]
    if failed:
        return "REJECTED", f"{len(failed)} of {len(required)} required verdicts fail; the first: {failed[0].reason}"
    unsettled = [verdict.reason for verdict in required if verdict.outcome != "pass"] + list(covered.missing)
    if unsettled:
        count = sum(verdict.outcome != "pass" for verdict in required)
        return (
            "INCOMPLETE",
            f"{count} of {len(required)} required verdicts could not be given; the first: {unsettled[0]}",
        )
    if not covered.complete:
        return "INCOMPLETE", "nothing that is required was measured"
    nodes = f"{covered.nodes_measured} of {covered.nodes} node{'s' if covered.nodes > 1 else ''}"
    return "ACCEPTED", (
        f"all {len(required)} required verdicts pass; {covered.cases_measured} of {covered.cases} cases measured and "
        f"verified on {nodes}"
    )


def write_outputs(report: Report, folder: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Render the report in each of the formats (all by default) and write the files, each atomically.

    Raises:
        ConfigError: an unknown format.
        RunError: the folder cannot be written or the disk is full.
    """
    from pyhpc.acceptance.formats.format import format_of, formats

    written = []
    for name in formats() if names is None else names:
        form = format_of(name)
        path = folder / form.file
        records.write_atomically(path, form.render(report))
        written.append(path)
    return written
