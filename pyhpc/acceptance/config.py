"""Stage 1, config: a suite in TOML → `Suite`. Whatever cannot be meant is an error with file and line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pyhpc.measure.measurement import Record
from pyhpc.measure.measurement import Sampling as Sampling
from pyhpc.measure.statistics import Statistic as Statistic


class Limit(Record):
    """What one metric of a step must reach, and who says so.

    With `of = "ceiling"` the numbers are fractions of the physical limit measured in the same run (the case's ceiling for
    this metric) and `unit` is "fraction"; otherwise they are in `unit` ("GFLOP/s", "TFLOP/s", "GB/s", "us", ...).
    `at_most` on a rate is the plausibility bound: above it the result is not believed.
    """

    metric: str  # "flops_per_second", "bytes_per_second", "busbw", "algbw", "seconds", "line_latency"
    unit: str
    source: str  # contract clause, data sheet, derivation: a limit without a source is refused
    at_least: float | None = None
    at_most: float | None = None
    of: Literal["ceiling"] | None = None
    statistic: Statistic = "median"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    required: bool = True
    line: int = 0  # where in the suite


class StepConfig(Record):
    """One `[[step]]` as written."""

    name: str
    workload: str  # a file of acceptance/workloads: "kernel", "memory", "allreduce", "pair", "burn"
    nodes: Literal["each", "all"] = "each"  # every node (rank) for itself, or all together
    ranks_per_node: int | Literal["cores", "gpus"] = 1
    threads: int | Literal["all"] = "all"  # threads of one rank: "all" = its share of the node's cores
    timeout_seconds: float = Field(default=120.0, gt=0)
    cases: tuple[dict[str, Any], ...] = ()  # parameters for the workload, one measurement (per subject) each
    limit: tuple[Limit, ...] = ()
    sampling: Sampling = Sampling()
    required: bool = True
    line: int = 0


class Suite(Record):
    """A validated suite file."""

    schema_version: int = Field(alias="schema")
    name: str
    description: str = ""
    step: tuple[StepConfig, ...]
    path: str = ""
    digest: str = ""  # sha256 of the file's bytes
