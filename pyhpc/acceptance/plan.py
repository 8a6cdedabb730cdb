"""Stage 2, plan: `Suite` + `Machine` → `Plan`. Every decision is made here; `pyhpc plan` prints it and stops."""

from __future__ import annotations

from typing import Any

from pyhpc.acceptance.config import Limit, Sampling
from pyhpc.machine import Machine
from pyhpc.measure.measurement import Record


class Case(Record):
    """One thing to measure, fully decided."""

    name: str  # unique within the step; Measurement.case
    kernel: str
    variant: str
    problem: dict[str, Any]
    ceilings: dict[str, str] = {}  # metric → "step/case" whose median is this metric's physical limit
    skip: str | None = None  # the reason it cannot run here (never a pass)


class Step(Record):
    """A workload, its cases, its node set, its timeout, its limits, or the reason it cannot run."""

    name: str
    workload: str
    nodes: str  # "each" or "all"
    ranks: int  # of the whole step
    threads: int  # of one rank
    timeout_seconds: float
    cases: tuple[Case, ...]
    limits: tuple[Limit, ...]
    sampling: Sampling
    required: bool = True
    skip: str | None = None


class Plan(Record):
    """The ordered steps, and everything a run needs to be repeated, resumed and judged."""

    suite: str
    suite_path: str
    suite_digest: str
    launcher: str
    nodes: int
    machine: Machine
    steps: tuple[Step, ...]
    created: float
    pyhpc_version: str
