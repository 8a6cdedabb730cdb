"""One contestant in a process of its own: `python -m pyhpc.bench.worker`.

Reads requests, one JSON object a line, on standard input; answers each with one on the original standard output:

    {"prepare": {"kernel", "variant", "problem", "threads"}}  →  {"library", "verification", "device"}
    {"sample": {"index", "seconds"}}                          →  {"round": Round}
    a request that fails                                      →  {"error": sentence}

A process each, because thread pools spin after their work, allocators and page tables differ with history, and because
a contestant that crashes must not take the others with it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyhpc.bench.comparison import Round
from pyhpc.bench.library import blas_library
from pyhpc.errors import MeasurementError
from pyhpc.home import Task, home_of
from pyhpc.kernels.kernel import Problem, Variant, kernels
from pyhpc.measure.conditions import Probe
from pyhpc.measure.measurement import Sampling
from pyhpc.measure.sample import sample


@dataclass
class Entry:
    """A verified contestant, ready to be sampled."""

    task: Task
    unchanged: Callable[[], bool]  # whether the result is the verified one
    method: str  # of the verification


def enter(variant: Variant, problem: Problem, threads: int, deterministic: bool = True) -> Entry:
    """Run `variant` once, verify the result against the float64 reference, and make ready to time it.

    Every later result must equal the verified one bit for bit. A peer (`deterministic` False) may instead be right
    anew: its library promises no order of summation.

    Raises:
        Unsupported: the variant does not take the problem here.
        MeasurementError: the result is wrong; the sentence says where.
    """
    task = Task(variant, problem, threads, home_of(variant.device))
    task.run()
    verified = task.result().copy()
    verdict = problem.verify(verified, task.inputs)
    if not verdict.passed:
        raise MeasurementError(
            f"{variant.name} is wrong on {problem.label}: {verdict.wrong} of {verdict.elements} elements"
            f" ({verdict.first_wrong or 'nothing was compared'})"
        )

    def unchanged() -> bool:
        result = task.result()
        same = np.array_equal(_bits(result), _bits(verified))
        return same or (not deterministic and problem.verify(result, task.inputs).passed)

    return Entry(task, unchanged, verdict.method)


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Worker:
    """The requests of one process."""

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.threads = 1

    def prepare(self, kernel: str, variant: str, problem: dict[str, Any], threads: int) -> dict[str, Any]:
        """Make the contestant ready; what it stands on."""
        self.entry = None  # its memory first
        contract = kernels()[kernel]
        chosen = contract.variant(variant)
        self.threads = threads
        ours = chosen in contract.variants()
        self.entry = enter(chosen, contract.problem(problem), threads, deterministic=ours)
        library, device = "" if ours else blas_library(variant), str(self.entry.task.home)
        return {"library": library, "verification": self.entry.method, "device": device}

    def sample(self, index: int, seconds: float) -> dict[str, Any]:
        """One round."""
        if self.entry is None:
            raise MeasurementError("nothing was prepared")
        rules = Sampling(min_samples=3, max_samples=1000, budget_seconds=seconds, relative_width=0.01)
        task = self.entry.task
        probe = Probe(self.threads, task.home.uuid)
        taken = sample(task.run, task.clear, self.entry.unchanged, rules, task.home.clock())
        conditions = probe.stop()
        if taken.wrong:
            raise MeasurementError(f"sample {taken.wrong[0]} of round {index} differs from the verified result")
        found = Round(index=index, seconds=taken.seconds, batch=taken.batch, steady=taken.steady, conditions=conditions)
        return {"round": found.model_dump(mode="json")}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; a failure is an answer too, and the sentence goes into the row."""
        try:
            ((name, arguments),) = request.items()
            result: dict[str, Any] = getattr(self, name)(**arguments)
            return result
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer until standard input ends."""
    # Libraries print to standard output: keep the channel to ourselves and send them to standard error.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        channel.write(json.dumps(worker.answer(json.loads(line))) + "\n")
