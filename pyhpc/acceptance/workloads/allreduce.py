"""Workload `allreduce`: all ranks of the step combine one vector each; the slowest rank's time is the collective's.

Every rank proves its own results: the first one against the float64 reference (the ranks share that work when all have
the same bits), every timed one bit for bit against the first. The contribution is written anew before every sample, as
a program would do; the ranks leave a barrier together before the clock starts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyhpc.acceptance.plan import Case
from pyhpc.acceptance.workloads.kernel import Proof, refuted
from pyhpc.acceptance.workloads.workload import Context, Workload
from pyhpc.errors import ConfigError
from pyhpc.kernels.kernel import Check
from pyhpc.measure.clock import Clock, host_clock
from pyhpc.measure.conditions import Probe
from pyhpc.measure.measurement import Measurement, Series, Subject, Verification
from pyhpc.measure.sample import sample

AUTO = "auto"  # the variant that lets the library choose by size and rank count
# MPICH changes its algorithm, and with it the bits, after the first few calls on a communicator.
_SETTLING_CALLS = {"mpi": 10}


@dataclass(frozen=True)
class _TogetherClock:
    """A clock that starts when the last rank has come."""

    own: Clock
    barrier: Callable[[], None]

    @property
    def resolution_seconds(self) -> float:
        return self.own.resolution_seconds

    @property
    def cost_seconds(self) -> float:
        return self.own.cost_seconds

    @property
    def call_seconds(self) -> float:
        return self.own.call_seconds

    def time(self, call: Callable[[], Any], count: int) -> float:
        self.barrier()
        return self.own.time(call, count)

    def evict(self) -> None:
        self.own.evict()


def _verify(problem: Any, right: np.ndarray, comm: Any, rank: int) -> Check:
    """This rank's check of the first result: a share when all ranks have the same bits, else the whole."""
    digests = set(comm.allgather(hashlib.sha256(right.tobytes()).digest()))
    return problem.verify_share(right, rank) if len(digests) == 1 else problem.verify(right, problem.inputs())  # type: ignore[no-any-return]


def _metrics(problem: Any, seconds: list[tuple[float, ...]]) -> dict[str, Series]:
    """Sample by sample the slowest rank's time, and the bandwidths it means."""
    slowest = tuple(max(times) for times in zip(*seconds, strict=True))
    metrics = {
        "seconds": Series(unit="s", values=slowest),
        "algbw": Series(unit="B/s", values=tuple(problem.algbw(t) for t in slowest)),
    }
    if len(seconds) > 1:
        metrics["busbw"] = Series(unit="B/s", values=tuple(problem.busbw(t) for t in slowest))
    return metrics


def _merge(proofs: list[Verification], wrong: list[tuple[int, ...]]) -> Verification:
    """The ranks' verifications as one: as good as the worst rank's."""
    return proofs[0].model_copy(
        update={
            "samples": min(proof.samples for proof in proofs),
            "wrong_samples": len({number for numbers in wrong for number in numbers}),
            "wrong_elements": sum(proof.wrong_elements for proof in proofs),
            "worst": max(proof.worst for proof in proofs),
            "first_wrong": next((proof.first_wrong for proof in proofs if proof.first_wrong), None),
        }
    )


@dataclass(frozen=True)
class _Vectors:
    """One rank's arrays for one case, and the call that is timed."""

    problem: Any
    algorithm: str
    comm: Any
    original: np.ndarray
    x: np.ndarray
    out: np.ndarray
    poison: np.ndarray

    @classmethod
    def of(cls, case: Case, comm: Any, rank: int) -> _Vectors:
        from pyhpc.kernels.allreduce import KERNEL
        from pyhpc.kernels.allreduce_persistent import allreduce_buffer

        problem: Any = KERNEL.problem(case.problem)
        original, poison = problem.contribution(rank), problem.output()
        if problem.buffer == "window":
            x, out = (allreduce_buffer(poison.shape, poison.dtype, comm) for _ in range(2))
        else:
            x, out = np.empty_like(original), np.empty_like(poison)
        vectors = cls(problem, case.variant, comm, original, x, out, poison)
        vectors.prepare()
        return vectors

    def call(self, checked: bool = False) -> None:
        from pyhpc.kernels.allreduce import allreduce

        op, order = self.problem.op, self.problem.order
        allreduce(self.x, self.comm, op, self.algorithm, order, out=self.out, checked=checked)

    def prepare(self) -> None:
        np.copyto(self.x, self.original)
        np.copyto(self.out, self.poison)


def measure(case: Case, context: Context) -> Measurement | None:
    """Measure one case on all ranks of the step; the record is rank 0's."""
    from pyhpc.comm import channel, mpi
    from pyhpc.kernels.allreduce_plan import engine

    started = time.time()
    context.phase("verifying")  # from here on the ranks wait for each other
    private = channel(context.comm)
    comm, vectors = private.comm, _Vectors.of(case, context.comm, context.rank)
    problem, out = vectors.problem, vectors.out
    vectors.call(checked=True)
    for _ in range(_SETTLING_CALLS.get(case.variant, 0)):
        vectors.call()
    right = out.copy()
    check = _verify(problem, right, comm, context.rank)
    checks: list[tuple[Check, Subject]] = comm.allgather((check, context.subject))
    fields: dict[str, Any] = {
        "ranks": context.ranks,
        "flops": problem.flops,
        "bytes": problem.bytes,
        "started": started,
    }
    for other, subject in checks:
        if not other.passed:
            proved = refuted(other, str(subject))
            record = context.measurement(case, verification=proved, finished=time.time(), **fields)
            return record if context.rank == 0 else None
    proof = Proof(right, str(context.subject))

    def checked() -> bool:
        context.fault.at_result(out, case.name)
        return proof.check(out)

    context.phase("sampling")
    probe = Probe(threads=context.step.threads)
    clock = _TogetherClock(host_clock(), comm.Barrier)
    rules = context.step.sampling
    samples = sample(
        vectors.call, vectors.prepare, checked, rules, clock, lambda value: comm.allreduce(value, mpi().MAX)
    )
    gathered = comm.gather((samples.seconds, samples.wrong, proof.verification(samples, check)))
    if context.rank != 0:
        return None
    seconds = [entry[0] for entry in gathered]
    conditions = probe.stop(pattern=problem.pattern, seed=problem.seed, cache=rules.cache)
    if (latency := engine(private).line_latency_seconds) > 0:
        conditions = conditions.model_copy(update={"line_latency_seconds": (latency,)})
    worst_rank = max(range(len(seconds)), key=lambda number: sum(seconds[number]))
    return context.measurement(
        case,
        subject=checks[worst_rank][1],
        seconds=dict(enumerate(seconds)),
        metrics=_metrics(problem, seconds),
        verification=_merge([entry[2] for entry in gathered], [entry[1] for entry in gathered]),
        conditions=conditions,
        finished=time.time(),
        **fields,
    )


def decide(parameters: dict[str, Any], variant: str, ranks: int) -> tuple[dict[str, Any], str, str | None]:
    """What the planner asks: the problem's parameters, the variant, and why it cannot run here.

    The algorithm is the variant; a suite may call it `algorithm`.

    Raises:
        ConfigError: an unknown algorithm, an order that it does not have, or a rank count that is not the step's.
    """
    from pyhpc import comm
    from pyhpc.kernels import invariant
    from pyhpc.kernels.schedules.schedule import algorithms

    known = (AUTO, *algorithms(), "mpi")
    if "algorithm" in parameters:
        if variant != "best":
            raise ConfigError(
                f"algorithm = {parameters['algorithm']!r} and variant = {variant!r} say the same: one is enough"
            )
        variant = parameters["algorithm"]
        parameters = {name: value for name, value in parameters.items() if name != "algorithm"}
    chosen = AUTO if variant == "best" else variant
    if chosen not in known:
        raise ConfigError(f"there is no all-reduce algorithm {variant!r}; there are {', '.join(known)}")
    if parameters.get("ranks", ranks) != ranks:
        raise ConfigError(f"ranks = {parameters['ranks']} does not fit: the step has {ranks}; leave it out")
    order = parameters.get("order")
    refusal = invariant.refusal(*(parameters.get(k, d) for k, d in (("dtype", "float32"), ("op", "sum"))))
    if order == "invariant" and refusal is not None:
        raise ConfigError(refusal)
    if order == "repeatable" and chosen == "mpi":
        raise ConfigError("an MPI library promises no repeatable order; leave the algorithm out")
    return {**parameters, "ranks": ranks}, chosen, comm.installation_absence()


WORKLOAD = Workload(
    name="allreduce",
    summary="all ranks combine a vector each; the slowest rank's time counts",
    collective=True,
    metrics=("seconds", "algbw", "busbw"),
    measure=measure,
    decide=decide,
)
