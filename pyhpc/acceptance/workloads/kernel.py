"""Workload `kernel`: each rank runs one kernel by itself on its own threads.

The first result is compared with the float64 reference within the kernel's proven error bound. The kernels are
deterministic, so every timed result must equal that one bit for bit; a single flipped bit in a single timed result is
found. Poisoning the output before, copying it from a GPU and comparing it after are outside the timed region.

A kernel that checks its own executions (matmul with `checked`) raises WrongResult, which names the element and, on a
GPU, the multiprocessor: a wrong result, not an error of the run.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np

from pyhpc.acceptance.plan import Case
from pyhpc.acceptance.workloads.workload import Context, Workload
from pyhpc.errors import WrongResult
from pyhpc.home import Task
from pyhpc.kernels.kernel import Check, Problem, kernels
from pyhpc.measure.conditions import Probe
from pyhpc.measure.measurement import Measurement, Series, Verification
from pyhpc.measure.sample import Samples, sample


class Proof:
    """Compares timed results with the verified one, and remembers the first that differs."""

    def __init__(self, right: np.ndarray, who: str) -> None:
        self._right, self._who = right, who
        self._bits = _bits(right)
        self.samples = 0
        self.wrong_elements = 0
        self.first_wrong: str | None = None

    def check(self, result: np.ndarray) -> bool:
        """Whether `result` equals the verified result bit for bit."""
        bits = _bits(result)
        number, self.samples = self.samples, self.samples + 1
        if np.array_equal(bits, self._bits):
            return True
        different = np.flatnonzero((bits != self._bits).reshape(result.size, -1).any(axis=1))
        self.wrong_elements += different.size
        if self.first_wrong is None:
            where = tuple(int(i) for i in np.unravel_index(different[0], result.shape))
            count = f"{different.size} wrong element{'s' if different.size > 1 else ''}"
            values = f"{result[where]!s} instead of {self._right[where]!s}"
            self.first_wrong = f"{self._who}: timed result {number} has {count}, the first at {where}: {values}"
        return False

    def verification(self, samples: Samples, check: Check) -> Verification:
        """The proof of a sampled case whose verified result passed `check`."""
        return Verification(
            samples=self.samples,
            wrong_samples=len(samples.wrong),
            wrong_elements=self.wrong_elements,
            worst=check.worst,
            method=f"first result: {check.method}; every timed result: bit for bit the same",
            first_wrong=self.first_wrong,
        )


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def refuted(check: Check, who: str) -> Verification:
    """The verification of a kernel whose very first result is wrong: it is not timed."""
    return Verification(
        samples=1,
        wrong_samples=1,
        wrong_elements=max(check.wrong, 1),
        worst=min(check.worst, sys.float_info.max),  # records hold no infinity
        method=check.method,
        first_wrong=f"{who}: {check.first_wrong or 'no element could be compared'}",
    )


def _work(problem: Problem, samples: Samples) -> dict[str, Series]:
    metrics = {"seconds": Series(unit="s", values=samples.seconds)}
    if problem.flops:
        metrics["flops_per_second"] = Series(unit="flop/s", values=tuple(problem.flops / t for t in samples.seconds))
    if problem.bytes:
        metrics["bytes_per_second"] = Series(unit="B/s", values=tuple(problem.bytes / t for t in samples.seconds))
    return metrics


def measure(case: Case, context: Context) -> Measurement:
    """Measure one case on this rank."""
    started = time.time()
    kernel = kernels()[case.kernel]
    problem = kernel.problem(case.problem)
    task = Task(kernel.variant(case.variant), problem, context.step.threads, context.home)
    try:
        fields = _timed(case, context, problem, task)
    except WrongResult as error:
        check = Check(1, 1, math.inf, "the kernel's own checksums", str(error))
        fields = {"verification": refuted(check, str(context.subject))}
    work = {"flops": problem.flops, "bytes": problem.bytes}
    return context.measurement(case, started=started, finished=time.time(), **work, **fields)


def _timed(case: Case, context: Context, problem: Problem, task: Task) -> dict[str, Any]:
    """The fields of the measurement that verifying and sampling give."""
    context.phase("verifying")
    task.run()
    right = task.result().copy()
    check = problem.verify(right, task.inputs)
    if not check.passed:
        return {"verification": refuted(check, str(context.subject))}
    proof = Proof(right, str(context.subject))

    def checked() -> bool:
        result = task.result()
        context.fault.at_result(result, case.name)
        return proof.check(result)

    context.phase("sampling")
    step = context.step
    probe = Probe(step.threads, context.home.uuid)
    samples = sample(task.run, task.clear, checked, step.sampling, context.home.clock())
    data = {name: case.problem[name] for name in ("pattern", "seed") if name in case.problem}
    return {
        "seconds": {context.rank: samples.seconds},
        "metrics": _work(problem, samples),
        "verification": proof.verification(samples, check),
        "conditions": probe.stop(cache=step.sampling.cache, **data),
    }


WORKLOAD = Workload(
    name="kernel",
    summary="each rank runs one kernel by itself, on its own threads",
    collective=False,
    metrics=("seconds", "flops_per_second", "bytes_per_second"),
    measure=measure,
)
