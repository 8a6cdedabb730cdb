"""What every benchmark here shares: verify, measure with pytest-benchmark, relate to peak and peers, print one table.

A bench_<kernel>.py names its KERNEL and PROBLEMS; each problem meets every variant and peer. One call is one round (no
calibration): before it, outside the timed region, the output of the round before is compared bit for bit with the
verified first result and then poisoned. The arithmetic peak is measured just before each benchmark.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest

from pyhpc.bench.worker import Entry, enter
from pyhpc.comm import channel, launch, mpi
from pyhpc.errors import Unsupported
from pyhpc.kernels.kernel import Kernel, Problem, Variant, kernels
from pyhpc.kernels.peak import DTYPES, PeakProblem
from pyhpc.machine import usable_cores
from pyhpc.measure.clock import host_clock
from pyhpc.measure.conditions import Probe
from pyhpc.native import cpu

_SECONDS = 0.5  # of rounds for one benchmark
_ROUNDS = (5, 300)


@dataclass
class Line:
    """One row of the closing table."""

    kernel: str
    problem: str
    contestant: str
    peer: bool
    seconds: float
    rate: float  # operations or bytes a second
    unit: str
    of_peak: float | None
    info: dict[str, Any]  # pytest-benchmark's extra_info, completed at the end


@dataclass(frozen=True)
class Contestant:
    """Who is measured on what."""

    kernel: Kernel
    variant: Variant
    problem: Problem
    peer: bool


_LINES = pytest.StashKey[list[Line]]()


def pytest_generate_tests(metafunc):
    """Every problem of the module with every variant and peer on the CPU, a reasoned skip where one cannot run."""
    if "contestant" not in metafunc.fixturenames:
        return
    kernel = kernels()[metafunc.module.KERNEL]
    found = []
    for problem in metafunc.module.PROBLEMS:
        for variant in (*kernel.variants(), *kernel.peers()):
            if variant.device == "cpu":
                reason = variant.reject(problem)
                marks = [pytest.mark.skip(reason=f"{variant.name}: {reason}")] if reason else []
                who = Contestant(kernel, variant, problem, peer=variant not in kernel.variants())
                found.append(pytest.param(who, id=f"{problem.label}-{variant.name}", marks=marks))
    metafunc.parametrize("contestant", found)


@pytest.fixture
def measure(benchmark, request):
    """measure(contestant): the whole benchmark of one contestant."""

    def run(who: Contestant) -> None:
        benchmark.group = f"{who.kernel.name} {who.problem.label}"
        try:
            entry = enter(who.variant, who.problem, 0, deterministic=not who.peer)
        except Unsupported as error:
            pytest.skip(str(error))
        peak = _peak(who.problem.ceiling)
        probe = Probe(usable_cores())
        _rounds(benchmark, entry)
        _tell(request.config.stash[_LINES], benchmark, who, peak, probe)

    return run


def _peak(dtype: str) -> float | None:
    """Operations a second of the arithmetic ceiling just now: the fastest of ten short runs."""
    if dtype not in DTYPES:
        return None
    problem = PeakProblem(dtype, 32 * cpu().available_threads())
    best, out = kernels()["peak"].best(problem), problem.output()
    return problem.flops / min(host_clock().time(lambda: best.run(problem, {}, out, 0), 1) for _ in range(10))


def _rounds(benchmark: Any, entry: Entry) -> None:
    """As many rounds as fit the time; every result is checked, the last one at the end."""
    together = channel() if launch() else None
    estimate = max(host_clock().time(entry.task.run, 1) for _ in range(2))
    if together is not None:  # all ranks make the same number of calls
        estimate = together.comm.allreduce(estimate, mpi().MAX)
    ran = 0

    def setup() -> None:
        nonlocal ran
        assert ran == 0 or entry.unchanged(), f"the result of round {ran} differs from the verified one"
        ran += 1
        entry.task.clear()
        if together is not None:
            together.synchronise()

    rounds = int(min(_ROUNDS[1], max(_ROUNDS[0], _SECONDS / estimate)))
    benchmark.pedantic(entry.task.run, setup=setup, rounds=rounds, warmup_rounds=2, iterations=1)
    assert entry.unchanged(), "the result of the last round differs from the verified one"


def _tell(lines: list[Line], benchmark: Any, who: Contestant, peak: float | None, probe: Probe) -> None:
    """Figures into extra_info and the closing table."""
    times = list(benchmark.stats.stats.data)
    if launch():  # a collective takes as long as its slowest rank
        times = [max(ranks) for ranks in zip(*channel().comm.allgather(times), strict=True)]
    seconds, problem, conditions = median(times), who.problem, probe.stop()
    moves = who.kernel.name in ("memory", "allreduce")
    rate = (problem.bytes if moves else problem.flops) / seconds
    of_peak = None if moves or peak is None else rate / peak
    unit = "GB/s" if moves else "GFLOP/s"
    benchmark.extra_info |= {
        unit: round(rate * 1e-9, 4),
        "median_seconds": seconds,
        "threads": cpu().available_threads(),
        "verified_rounds": len(times),
        "line_latency_seconds": list(conditions.line_latency_seconds),
        "clock_hertz": list(conditions.clock_hertz),
    }
    if of_peak is not None:
        benchmark.extra_info["percent_of_peak"] = round(100 * of_peak, 2)
    name = who.variant.name
    lines.append(
        Line(who.kernel.name, problem.label, name, who.peer, seconds, rate, unit, of_peak, benchmark.extra_info)
    )


def pytest_configure(config):
    """The list of figures of this run."""
    config.stash[_LINES] = []


def pytest_sessionstart(session):
    """Only rank 0 of an MPI world prints."""
    started = launch()
    if started is not None and started.rank > 0:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Before pytest-benchmark writes its JSON: the ratio to the best peer of the same problem."""
    lines = session.config.stash[_LINES]
    for line in lines:
        best = min((other for other in lines if other.peer and other.problem == line.problem
                    and other.kernel == line.kernel), key=lambda other: other.seconds, default=None)  # fmt: skip
        if best is not None:
            line.info["ratio_to_best_peer"] = round(best.seconds / line.seconds, 3)
            line.info["best_peer"] = best.contestant


def pytest_terminal_summary(terminalreporter, config):
    """One table of all figures."""
    lines = config.stash[_LINES]
    if not lines:
        return
    terminalreporter.section("pyhpc: rate, % of the peak measured just before, ratio to the best peer")
    width = max(len(line.problem) for line in lines)
    for line in lines:
        of_peak = "" if line.of_peak is None else f"{100 * line.of_peak:6.1f} % of peak"
        ratio = line.info.get("ratio_to_best_peer")
        versus = "" if ratio is None else f"{ratio:7.2f} × {line.info['best_peer']}"
        terminalreporter.write_line(
            f"{line.kernel:9} {line.problem:{width}} {line.contestant:18} {line.rate * 1e-9:10.3f} {line.unit:7}"
            f" {of_peak:17} {versus}"
        )
