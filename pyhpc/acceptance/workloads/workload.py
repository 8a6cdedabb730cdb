"""What a workload is: how one case of a step is measured on one rank.

A workload is one file of this folder that defines `WORKLOAD`; the folder listing is the registry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pyhpc.acceptance.fault import Fault
from pyhpc.acceptance.plan import Case, Step
from pyhpc.errors import ConfigError
from pyhpc.home import Home, Host
from pyhpc.measure.measurement import Measurement, Subject
from pyhpc.registry import members


@dataclass(frozen=True)
class Context:
    """Where a case is measured."""

    step: Step
    attempt: int
    subject: Subject
    ranks: int
    comm: Any | None  # the step's mpi4py communicator; None when it has one rank and no MPI
    phase: Callable[[str], None]  # tells the driver what this rank is doing: "warming up", "sampling" ...
    fault: Fault  # test only: what to break here
    home: Home = field(default_factory=Host)  # where the arrays of this case live

    @property
    def rank(self) -> int:
        """This process's rank in the step."""
        return self.subject.rank

    def at(self, home: Home) -> Context:
        """The same with arrays in `home`, which the subject names."""
        return replace(self, home=home, subject=self.subject.model_copy(update={"device": str(home)}))

    def measurement(self, case: Case, **fields: Any) -> Measurement:
        """A measurement of `case` with the identity fields filled in."""
        identity = {
            "step": self.step.name,
            "case": case.name,
            "kernel": case.kernel,
            "variant": case.variant,
            "problem": case.problem,
            "subject": self.subject,
            "attempt": self.attempt,
            "ceilings": case.ceilings,
        }
        return Measurement.model_validate(identity | fields)


@dataclass(frozen=True)
class Workload:
    """One way to exercise the machine."""

    name: str
    summary: str
    collective: bool  # all ranks measure one case together (one record) instead of each for itself (one record a rank)
    metrics: tuple[str, ...]
    measure: Callable[[Case, Context], Measurement | None]  # a collective returns the record on rank 0, None elsewhere
    # decide(parameters, variant, ranks) → parameters, variant, why it cannot run here: where a rank alone cannot tell
    decide: Callable[[dict[str, Any], str, int], tuple[dict[str, Any], str, str | None]] | None = None


@functools.cache
def workloads() -> dict[str, Workload]:
    """Every workload of this folder by name."""
    return members("pyhpc.acceptance.workloads", "WORKLOAD")


def workload(name: str) -> Workload:
    """The workload called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in workloads():
        raise ConfigError(f"there is no workload {name!r}; there are {', '.join(workloads())}")
    return workloads()[name]
