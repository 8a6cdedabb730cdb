"""Stage 3, run: plan → records. Each step goes to the launcher; an inconclusive verdict asks for another attempt.

Whatever was measured is on the disk before the run goes on. A run that was killed is run again on the same folder:
cases that have a record are not measured again. An error is a record too: retrying until it passes is no acceptance
test. A ceiling is measured again only where a result that was proved right exceeds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pyhpc.acceptance import records
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.launchers.launcher import Launcher
from pyhpc.acceptance.plan import PLAN_FILE, Plan, Step
from pyhpc.errors import RunError
from pyhpc.measure.measurement import Measurement


class Progress(Protocol):
    """Who watches a run (pyhpc.acceptance.progress shows it)."""

    def begin_step(self, step: Step, attempt: int) -> None:
        """An attempt of a step starts."""

    def at(self, rank: int, case: str, phase: str) -> None:
        """A rank says what it is doing; often."""

    def end_step(self, step: Step, attempt: int, measurements: Sequence[Measurement]) -> None:
        """An attempt has ended and these are its records."""


def prepare(plan: Plan, folder: Path) -> None:
    """Make the run folder and write the plan into it.

    Raises:
        RunError: the folder holds another run, or cannot be written.
    """
    if (folder / PLAN_FILE).exists():
        raise RunError(
            f"{folder} already holds a run; go on with: pyhpc accept --resume {folder}, or choose another --out"
        )
    records.write_atomically(folder / PLAN_FILE, plan.model_dump_json(indent=1))


def _owed(step: Step, attempt: int, plan: Plan, done: list[Measurement]) -> Step | None:
    """The step with the cases that this attempt still has to measure, or None."""
    wanted = {case.name for case in step.cases if case.skip is None}
    if attempt > 1:
        verdicts = judge(plan, [m for m in done if m.step != step.name or m.attempt < attempt])
        wanted &= {v.case for v in verdicts if v.step == step.name and v.outcome == "inconclusive"}
    have = {m.key for m in done if m.attempt == attempt}
    wanted = {name for name in wanted if any((step.name, name, who) not in have for who in step.subjects)}
    return step.model_copy(update={"cases": tuple(c for c in step.cases if c.name in wanted)}) if wanted else None


def _again(plan: Plan, exceeded: set[str], done: list[Measurement]) -> list[tuple[Step, int]]:
    """The exceeded ceilings ("step/case") that have an attempt left, as (step with these cases, attempt)."""
    found = []
    for step in plan.steps:
        cases = tuple(case for case in step.cases if f"{step.name}/{case.name}" in exceeded)
        names = {case.name for case in cases}
        attempt = 1 + max((m.attempt for m in done if m.step == step.name and m.case in names), default=0)
        if cases and attempt <= step.sampling.attempts:
            found.append((step.model_copy(update={"cases": cases}), attempt))
    return found


@dataclass
class _Run:
    """A run in progress: its records so far are `done`."""

    plan: Plan
    folder: Path
    launcher: Launcher
    progress: Progress
    done: list[Measurement]

    def measure(self, step: Step, attempt: int) -> None:
        """One attempt; keeps the records that are new (a resumed step finds its earlier ones again)."""
        self.progress.begin_step(step, attempt)
        place = self.folder / records.STEPS / f"{step.name}.{attempt}"
        place.mkdir(parents=True, exist_ok=True)
        found = self.launcher.launch(step, attempt, place, self.progress.at)
        have = {(*m.key, m.attempt) for m in self.done}
        new = [m for m in found if (*m.key, m.attempt) not in have]
        for measurement in new:
            records.append(self.folder / records.RECORDS, measurement)
        self.done += new
        self.progress.end_step(step, attempt, new)

    def settle(self, step: Step) -> None:
        """Measure again each ceiling that a verified result of `step` exceeds: it must have been disturbed.

        The judge believes the ceiling's fastest sample; if the result still exceeds it after all attempts, it fails.
        """
        while exceeded := {v.exceeds for v in judge(self.plan, self.done) if v.step == step.name and v.exceeds}:
            again = _again(self.plan, exceeded, self.done)
            if not again:
                return
            for owed, attempt in again:
                self.measure(owed, attempt)


def run(plan: Plan, folder: Path, launcher: Launcher, progress: Progress) -> list[Measurement]:
    """Measure whatever of the plan has no record yet in `folder`; returns all records, old and new.

    Raises:
        RunError: the folder cannot be written, or a step cannot be started at all.
    """
    done, _ = records.load(folder)
    stored = {(*m.key, m.attempt) for m in records.read(folder / records.RECORDS)[0]}
    for measurement in done:  # the workers' files of a killed run
        if (*measurement.key, measurement.attempt) not in stored:
            records.append(folder / records.RECORDS, measurement)
    going = _Run(plan, folder, launcher, progress, done)
    for step in plan.steps:
        if step.skip is not None:
            continue
        for attempt in range(1, step.sampling.attempts + 1):
            owed = _owed(step, attempt, plan, going.done)
            if owed is not None:
                going.measure(owed, attempt)
        going.settle(step)
    return going.done
