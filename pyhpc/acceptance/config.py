"""Stage 1, config: a suite in TOML → `Suite`. Whatever cannot be meant is an error with file and line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pyhpc.measure.measurement import Record

Statistic = Literal["median", "p05", "p25", "p75", "p95", "min", "max"]


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


class Sampling(Record):
    """How long to measure one case."""

    min_samples: int = Field(default=10, ge=1)
    max_samples: int = Field(default=2000, ge=1)
    budget_seconds: float = Field(default=2.0, gt=0)  # sampling time of one attempt
    relative_width: float = Field(default=0.02, gt=0)  # of the confidence interval of the median
    attempts: int = Field(default=3, ge=1)  # an inconclusive verdict asks for more samples this often
    cache: Literal["warm", "cold"] = "warm"


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
