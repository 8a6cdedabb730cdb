"""What was measured: every raw sample, whether it was verified, and the conditions it was taken under.

No numpy here: a stored measurement is read on any laptop.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of everything that is stored: frozen, no unknown fields, JSON both ways."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subject(Record):
    """Who was measured, so that a failure names it."""

    rank: int = 0
    host: str = ""
    pid: int = 0
    device: str = "cpu"  # "cpu", or "cuda:0 NVIDIA H200 GPU-<uuid>"
    cores: tuple[int, ...] = ()  # the affinity mask

    def __str__(self) -> str:
        where = "" if self.device == "cpu" else f", {self.device}"
        return f"rank {self.rank} on {self.host}{where}"


class Sampling(Record):
    """How long to measure one case."""

    min_samples: int = Field(default=10, ge=1)
    max_samples: int = Field(default=2000, ge=1)
    budget_seconds: float = Field(default=2.0, gt=0)  # sampling time of one attempt, preparing and checking included
    relative_width: float = Field(default=0.02, gt=0)  # of the confidence interval of the median
    attempts: int = Field(default=3, ge=1)  # an inconclusive verdict asks for more samples this often
    cache: Literal["warm", "cold"] = "warm"


class Conditions(Record):
    """The state of the machine around the samples. One value per probe; empty or None = it does not tell."""

    clock_hertz: tuple[float, ...] = ()
    power_watts: tuple[float, ...] = ()
    temperature_celsius: tuple[float, ...] = ()
    throttle_reasons: tuple[str, ...] = ()
    load_average: tuple[float, ...] = ()
    other_cpu_fraction: float | None = None  # CPU time of other processes on these cores / available, while sampling
    stolen_cpu_fraction: float | None = None  # CPU time that the hypervisor gave to others / available
    run_queue_seconds: float | None = None  # how long threads of this process were ready and waited for a core
    line_latency_seconds: tuple[float, ...] = ()  # one-way cache-line transfer between two cores (placement)
    pattern: str = ""  # data pattern and seed of the operands
    seed: int = 0
    cache: str = "warm"  # "warm" or "cold"
    threads: int = 1


class Verification(Record):
    """How the timed results were proved right. `samples` counts those checked; it must reach the sample count."""

    samples: int = 0  # timed results that were compared
    wrong_samples: int = 0  # timed results that were wrong
    wrong_elements: int = 0
    worst: float = 0.0  # largest error / tolerance against the float64 reference; ≤ 1 is right
    method: str = ""
    first_wrong: str | None = None  # rank, sample, element, value, expected: one sentence


class Series(Record):
    """The raw samples of one metric."""

    unit: str  # "s", "flop/s", "B/s"
    values: tuple[float, ...]


class Measurement(Record):
    """One case of one step on one subject (kernels) or on all ranks together (collectives).

    `seconds` holds each rank's raw times, the metrics are derived from them by the workload: for a collective, sample i
    is the slowest rank's. Several measurements with the same (step, case, subject) and rising `attempt` are pooled.
    """

    step: str
    case: str  # unique within the step: "float32 2048x2048x2048 avx512"
    kernel: str
    variant: str
    problem: dict[str, Any]
    subject: Subject  # the one measured, or for a collective the slowest rank
    attempt: int = 1
    ranks: int = 1
    seconds: dict[int, tuple[float, ...]] = Field(default_factory=dict)  # rank → raw samples
    metrics: dict[str, Series] = Field(default_factory=dict)
    flops: int = 0  # of one execution
    bytes: int = 0
    ceilings: dict[str, str] = Field(default_factory=dict)  # metric → (step, case) of the measured limit above it
    verification: Verification = Verification()
    conditions: Conditions = Conditions()
    started: float = 0.0  # Unix seconds
    finished: float = 0.0
    error: str | None = None  # one sentence; a measurement with an error never passes

    @property
    def key(self) -> tuple[str, str, int]:
        """(step, case, rank of the subject): what is pooled and judged together."""
        return (self.step, self.case, self.subject.rank if self.ranks == 1 else -1)
