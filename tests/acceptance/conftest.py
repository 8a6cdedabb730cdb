"""A complete passing run, made by hand: a ceiling, a kernel on two ranks, and a collective."""

from __future__ import annotations

import pytest

from pyhpc.acceptance.config import Limit
from pyhpc.acceptance.plan import Case, Plan, Step
from pyhpc.machine import Machine
from pyhpc.measure.measurement import Measurement, Sampling, Series, Subject, Verification

FLOPS, BYTES, MESSAGE = 2_000_000, 1_000, 4_000_000
SOURCE = "contract, annex 2"
MACHINE = Machine(
    host="n0",
    processor="a processor",
    architecture="x86_64",
    sockets=1,
    cores=2,
    threads_per_core=1,
    nominal_hertz=2e9,
    memory_bytes=2**33,
    cache_bytes={},
    targets={"generic": ""},
)


def times(middle, count=20, spread=0.02):
    """`count` different times around `middle` seconds."""
    return tuple(middle * (1 + spread * (2 * i / (count - 1) - 1)) for i in range(count))


def step(name, case, limits=(), collective=False, **fields):
    """A step of two ranks with one case."""
    return Step(
        name=name,
        workload="allreduce" if collective else "kernel",
        nodes="all" if collective else "each",
        ranks=2,
        threads=1,
        timeout_seconds=60,
        cases=(case,),
        limits=limits,
        sampling=Sampling(min_samples=10),
        collective=collective,
        **fields,
    )


def make_plan():
    peak = Case(name="float32 avx2", kernel="peak", variant="avx2", problem={"dtype": "float32"}, flops=FLOPS)
    matmul = Case(
        name="float32 100x100x100 avx2",
        kernel="matmul",
        variant="avx2",
        problem={"m": 100, "n": 100, "k": 100, "dtype": "float32", "sizes": (1, 2)},
        flops=FLOPS,
        bytes=BYTES,
        ceilings={"flops_per_second": "peak/float32 avx2"},
    )
    allreduce = Case(
        name="float32 sum 1000000 ring",
        kernel="allreduce",
        variant="ring",
        problem={"elements": 1_000_000, "ranks": 2},
        flops=1_000_000,
        bytes=3 * MESSAGE,
        message_bytes=MESSAGE,
    )
    relative = Limit(
        metric="flops_per_second", of="ceiling", unit="fraction", at_least=0.5, at_most=1.1, source=SOURCE, line=7
    )
    absolute = Limit(metric="flops_per_second", unit="GFLOP/s", at_least=1.0, source=SOURCE, line=8)
    bandwidth = Limit(metric="busbw", unit="GB/s", at_least=2.0, at_most=10.0, source=SOURCE, line=9)
    return Plan(
        suite="synthetic",
        suite_path="synthetic.toml",
        suite_digest="0" * 64,
        launcher="mpiexec",
        nodes=2,
        machine=MACHINE,
        steps=(
            step("peak", peak),
            step("matmul", matmul, (relative, absolute)),
            step("allreduce", allreduce, (bandwidth,), collective=True),
        ),
        created=1000.0,
        pyhpc_version="0.1.0",
    )


def record(step, rank, seconds, attempt=1):
    """What the run stage would store for the only case of `step`; `rank` -1: both ranks together."""
    (case,) = step.cases
    members = (0, 1) if rank == -1 else (rank,)
    rates = {"flops_per_second": (case.flops, "flop/s"), "bytes_per_second": (case.bytes, "B/s")}
    if rank == -1:
        rates = {"algbw": (case.message_bytes, "B/s"), "busbw": (case.message_bytes * 2 * 1 / 2, "B/s")}
    metrics = {"seconds": Series(unit="s", values=seconds)}
    metrics |= {
        name: Series(unit=unit, values=tuple(work / t for t in seconds)) for name, (work, unit) in rates.items()
    }
    return Measurement(
        step=step.name,
        case=case.name,
        kernel=case.kernel,
        variant=case.variant,
        problem=case.problem,
        subject=Subject(rank=max(rank, 0), host=f"n{max(rank, 0)}", pid=100 + rank),
        attempt=attempt,
        ranks=len(members),
        seconds=dict.fromkeys(members, seconds),
        metrics=metrics,
        flops=case.flops,
        bytes=case.bytes,
        ceilings=case.ceilings,
        verification=Verification(samples=len(seconds), worst=0.3, method="every element against float64"),
        started=1000.0,
        finished=1001.0,
    )


def make_records(plan, peak=1e-3, matmul=1.25e-3, allreduce=1e-3):
    """Every record the plan owes, at these median seconds."""
    middle = {"peak": peak, "matmul": matmul, "allreduce": allreduce}
    return [record(s, rank, times(middle[s.name])) for s in plan.steps for rank in s.subjects]


@pytest.fixture(scope="session")
def plan():
    return make_plan()


@pytest.fixture
def records(plan):
    return make_records(plan)


@pytest.fixture(scope="session")
def make():
    """The builders, for tests that vary them."""

    class Builders:
        plan = staticmethod(make_plan)
        record = staticmethod(record)
        records = staticmethod(make_records)
        times = staticmethod(times)
        step = staticmethod(step)

    return Builders
