"""Stage 5, report: verdicts → `Report`, and the one word both parties sign. Pure, like judge."""

from __future__ import annotations

from typing import Literal

from pyhpc.acceptance.judge import Verdict
from pyhpc.acceptance.plan import Plan
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
    command: str  # how to reproduce
    run_folder: str
    started: float
    finished: float
