"""One contestant in a process of its own: `python -m pyhpc.bench.worker`.

Reads requests, one JSON object a line, on standard input; answers each with one on the original standard output:

    {"prepare": {"kernel", "variant", "problem", "threads"}}  →  {"library", "verification"}
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
from pyhpc.errors import MeasurementError, Unsupported
from pyhpc.kernels.kernel import Problem, Variant, kernels
from pyhpc.measure.conditions import Probe
from pyhpc.measure.measurement import Sampling
from pyhpc.measure.sample import sample


@dataclass
class Entry:
    """A verified contestant, ready to be sampled. `run`, `poison` and `unchanged` are what `sample` wants."""

    run: Callable[[], Any]
    poison: Callable[[], None]
    unchanged: Callable[[], bool]
    method: str  # of the verification


def enter(variant: Variant, problem: Problem, threads: int, deterministic: bool = True) -> Entry:
    """Run `variant` once, verify the result against the float64 reference, and make ready to time it.

    Every later result must equal the verified one bit for bit. A peer (`deterministic` False) may instead be right
    anew: its library promises no order of summation.

    Raises:
        Unsupported: the variant does not take the problem here, or runs on a GPU.
        MeasurementError: the result is wrong; the sentence says where.
    """
    reason = variant.reject(problem)
    if variant.device != "cpu":
        reason = "it runs on a GPU; a comparison in processes of their own is of CPU variants"
    if reason is not None:
        raise Unsupported(f"{variant.name} cannot run {problem.label}: {reason}")
    inputs = problem.inputs()
    arrays = variant.prepare(problem, inputs) if variant.prepare else inputs
    out = _output(variant, problem)
    poison = out.copy()
    collect = variant.collect or (lambda *unused: None)
    variant.run(problem, arrays, out, threads)
    collect(problem, arrays, out)
    verdict = problem.verify(out, inputs)
    if not verdict.passed:
        raise MeasurementError(
            f"{variant.name} is wrong on {problem.label}: {verdict.wrong} of {verdict.elements} elements"
            f" ({verdict.first_wrong or 'nothing was compared'})"
        )
    verified = out.copy()

    def unchanged() -> bool:
        collect(problem, arrays, out)
        same = np.array_equal(_bits(out), _bits(verified))
        return same or (not deterministic and problem.verify(out, inputs).passed)

    return Entry(
        lambda: variant.run(problem, arrays, out, threads), lambda: np.copyto(out, poison), unchanged, verdict.method
    )


def _output(variant: Variant, problem: Problem) -> np.ndarray:
    return variant.output(problem) if variant.output else problem.output()


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
        return {"library": "" if ours else blas_library(variant), "verification": self.entry.method}

    def sample(self, index: int, seconds: float) -> dict[str, Any]:
        """One round."""
        if self.entry is None:
            raise MeasurementError("nothing was prepared")
        rules = Sampling(min_samples=3, max_samples=1000, budget_seconds=seconds, relative_width=0.01)
        probe = Probe(self.threads)
        taken = sample(self.entry.run, self.entry.poison, self.entry.unchanged, rules)
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
