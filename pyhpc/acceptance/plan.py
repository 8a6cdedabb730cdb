"""Stage 2, plan: what a run will do, decided to the last detail. planner.py makes it; `pyhpc plan` prints it.

A stored plan says everything that judging the records needs, so nothing here imports a kernel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pyhpc.acceptance.config import Limit, Sampling
from pyhpc.errors import RunError
from pyhpc.machine import Machine
from pyhpc.measure.measurement import Record

PLAN_FILE = "plan.json"


class Case(Record):
    """One thing to measure, fully decided."""

    name: str  # unique within the step; Measurement.case
    kernel: str
    variant: str
    problem: dict[str, Any]
    device: str = "cpu"
    flops: int = 0  # of one execution, by the kernel's work model; what a record says must agree
    bytes: int = 0
    message_bytes: int = 0  # of a collective: one rank's vector, the size in nccl-tests' sense
    ceilings: dict[str, str] = Field(default_factory=dict)  # metric → "step/case" whose median is its physical limit
    skip: str | None = None  # the reason it cannot run here (never a pass)


class Step(Record):
    """A workload, its cases, its node set, its timeout, its limits, or the reason it cannot run."""

    name: str
    workload: str
    nodes: Literal["each", "all"]
    ranks: int  # of the whole step
    threads: int  # of one rank
    timeout_seconds: float
    cases: tuple[Case, ...]
    limits: tuple[Limit, ...]
    sampling: Sampling
    collective: bool = False  # one record of all ranks together, instead of one a rank
    required: bool = True
    skip: str | None = None
    notes: tuple[str, ...] = ()  # what a reader must know of it: more ranks than cores
    line: int = 0

    @property
    def subjects(self) -> tuple[int, ...]:
        """The last part of `Measurement.key` for each record that a case owes: its ranks, or -1 for all together."""
        return (-1,) if self.collective and self.ranks > 1 else tuple(range(self.ranks))


class Plan(Record):
    """The ordered steps, and everything a run needs to be repeated, resumed and judged."""

    suite: str
    suite_path: str
    suite_digest: str
    launcher: str
    nodes: int
    hosts: tuple[str, ...] = ()  # their names; a run goes on only on the same ones
    ranks: int | None = None  # what "cores" meant, if somebody said so
    machine: Machine
    steps: tuple[Step, ...]
    created: float
    pyhpc_version: str

    @property
    def seconds(self) -> float:
        """A rough estimate of the duration: one attempt of each case, and starting each step."""
        run = [step for step in self.steps if step.skip is None]
        return sum(
            3.0 + (1.0 + step.sampling.budget_seconds) * sum(not case.skip for case in step.cases) for step in run
        )

    def __str__(self) -> str:
        lines = [
            f"suite {self.suite} ({self.suite_path}, sha256 {self.suite_digest[:12]})",
            f"on {self.nodes} node(s) like {self.machine.host}: {self.machine.processor}, {self.machine.cores} cores, "
            f"{len(self.machine.gpus)} GPUs; launcher {self.launcher}; about {self.seconds:.0f} s",
        ]
        for number, step in enumerate(self.steps, start=1):
            lines += _step_lines(number, step)
        return "\n".join(lines)


def _step_lines(number: int, step: Step) -> list[str]:
    together = "together" if step.collective else "each for itself"
    optional = "" if step.required else ", not required"
    lines = [
        "",
        f"{number}. {step.name}: workload {step.workload}, {step.ranks} rank(s) {together}, "
        f"{step.threads} thread(s) each, timeout {step.timeout_seconds:g} s{optional}",
    ]
    if step.skip:
        return [*lines, f"   CANNOT RUN: {step.skip}"]
    lines += [f"   note: {note}" for note in step.notes]
    width = max(len(case.name) for case in step.cases)
    for case in step.cases:
        under = "; ".join(f"{metric} under {ceiling}" for metric, ceiling in case.ceilings.items())
        lines.append(f"   {case.name:{width}}  " + (f"CANNOT RUN: {case.skip}" if case.skip else under))
    lines += [f"   limit: {describe(limit)} ({limit.source})" for limit in step.limits]
    return [line.rstrip() for line in lines]


def describe(limit: Limit) -> str:
    """A limit in words: "median flops_per_second at least 0.5, at most 1.2 of its ceiling, 95 % confidence"."""
    bounds = [f"at least {limit.at_least:g}"] if limit.at_least is not None else []
    bounds += [f"at most {limit.at_most:g}"] if limit.at_most is not None else []
    unit = limit.unit if limit.of is None else "of its ceiling"
    where = "".join(f" where {key} = {value}" for key, value in limit.where.items())
    certain = f"{100 * limit.confidence:g} % confidence"
    return f"{limit.statistic} {limit.metric}{where} {', '.join(bounds)} {unit}, {certain}"


def applies(limit: Limit, case: Case) -> bool:
    """Whether `limit` is for `case`: every key of `limit.where` has (one of) its value(s) there."""
    values = {**case.problem, "kernel": case.kernel, "variant": case.variant, "device": case.device}
    return all(
        values.get(key) in (wanted if isinstance(wanted, tuple) else (wanted,)) for key, wanted in limit.where.items()
    )


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where a tuple is a list."""
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def read_plan(folder: Path) -> Plan:
    """The plan of a run folder.

    Raises:
        RunError: there is none, or it is damaged.
    """
    try:
        return Plan.model_validate_json((folder / PLAN_FILE).read_bytes())
    except OSError as error:
        raise RunError(f"{folder} is no run folder: {PLAN_FILE} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise RunError(f"{folder / PLAN_FILE} is damaged: {error}") from error
