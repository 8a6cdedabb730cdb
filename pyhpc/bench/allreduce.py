"""`pyhpc bench allreduce`: times all-reduce algorithms and MPI_Allreduce, alternately in one run, by nccl-tests'
conventions.

One call is timed from a dissemination barrier to its return, on every rank; the slowest rank's time counts. Before each
call, outside the timed part, the input is rewritten and the output poisoned: a buffer that stays in cache or a result
that was never written would flatter. Each contestant's first result is verified against the reference (every rank its
share of the elements, all ranks' digests being equal) and every later one must equal it bit for bit.

The contestants take turns within an iteration and the first place rotates, so that a disturbance of the machine meets
all. Formulas: nccl-tests, doc/PERFORMANCE.md. The table and the JSON are allreduce_table.py's.
"""

from __future__ import annotations

import os
import statistics
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyhpc.comm import Channel, channel, library, mpi, node_name, thread_level
from pyhpc.errors import InvalidArgument
from pyhpc.kernels.allreduce import allreduce
from pyhpc.kernels.allreduce_persistent import allreduce_buffer
from pyhpc.kernels.allreduce_plan import Request, chosen, engine
from pyhpc.kernels.allreduce_problem import OPS, AllreduceProblem, algbw, busbw
from pyhpc.kernels.allreduce_variants import algorithm_refusal
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.schedules.schedule import algorithms

WINDOW = "window"  # the contestant: "auto" on arrays of allreduce_buffer, which the ranks of a node share


@dataclass(frozen=True)
class Sweep:
    """What is measured."""

    sizes: tuple[int, ...]  # bytes of one rank's vector; rounded down to whole elements
    dtype: str = "float32"
    op: str = "sum"
    algorithms: tuple[str, ...] = ("auto", WINDOW, "mpi")
    # MPI libraries change their algorithm after the first calls on a communicator (MPICH: the fifth).
    warmup: int = 10
    iterations: int = 20
    pattern: str = "uniform"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.warmup < 0:
            raise InvalidArgument(
                f"iterations is {self.iterations} and warmup {self.warmup}; at least 1 and 0 are needed"
            )
        if not self.sizes or min(self.sizes) < 0:
            raise InvalidArgument("sizes must be one or more numbers of bytes, none negative")
        choices = {"dtype": tuple(DTYPES), "op": tuple(OPS), "algorithm": ("auto", *algorithms(), WINDOW, "mpi")}
        asked = [("dtype", self.dtype), ("op", self.op), *(("algorithm", name) for name in self.algorithms)]
        for what, value in asked:
            if value not in choices[what]:
                raise InvalidArgument(f"{what} is {value!r}; it must be one of {', '.join(choices[what])}")


@dataclass(frozen=True)
class Timing:
    """One contestant at one size, in place or not."""

    seconds: tuple[tuple[float, ...], ...]  # [rank][iteration]
    wrong: int  # elements, over all ranks and iterations

    @property
    def slowest(self) -> tuple[float, ...]:
        """The slowest rank's seconds in each iteration."""
        return tuple(max(ranks) for ranks in zip(*self.seconds, strict=True))

    @property
    def median(self) -> float:
        """Median seconds of the slowest rank."""
        return statistics.median(self.slowest)

    @property
    def slowest_rank(self) -> int:
        """The rank that was the slowest most often."""
        return Counter(ranks.index(max(ranks)) for ranks in zip(*self.seconds, strict=True)).most_common(1)[0][0]


@dataclass(frozen=True)
class Row:
    """One contestant at one size."""

    algorithm: str  # as asked for
    played: str  # what "auto" chose; otherwise the same
    size_bytes: int
    count: int
    ranks: int
    out_of_place: Timing
    in_place: Timing

    def algbw(self, timing: Timing) -> float:
        """Bytes per second."""
        return algbw(self.size_bytes, timing.median)

    def busbw(self, timing: Timing) -> float | None:
        """Bytes per second, None on one rank."""
        return busbw(self.size_bytes, timing.median, self.ranks)


@dataclass(frozen=True)
class Process:
    """One rank."""

    rank: int
    pid: int
    host: str


@dataclass(frozen=True)
class Result:
    """A whole sweep; equal on every rank."""

    sweep: Sweep
    processes: tuple[Process, ...]
    library: str
    thread_level: str
    rows: tuple[Row, ...]
    refused: dict[str, str]  # algorithm → why it was not measured
    line_latency_seconds: float  # of a cache line between two ranks' cores; 0 where no node has two

    @property
    def wrong(self) -> int:
        """Wrong elements of all rows: anything but 0 is a failure."""
        return sum(row.out_of_place.wrong + row.in_place.wrong for row in self.rows)


def sizes_between(minimum: int, maximum: int, factor: int = 2) -> tuple[int, ...]:
    """Sizes in bytes from `minimum` to `maximum`, each `factor` times the one before (nccl-tests' -b, -e and -f)."""
    if minimum < 1 or factor < 2 or maximum < minimum:
        raise InvalidArgument(
            "sizes need a minimum of at least 1 byte, a maximum not below it and a factor of at least 2"
        )
    sizes = [minimum]
    while sizes[-1] * factor <= maximum:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)


def benchmark(sweep: Sweep, comm: Any = None) -> Result:
    """Measure `sweep` on the ranks of `comm` (default: the world). Collective; every rank gets the result.

    Raises:
        InvalidArgument: `comm` is no intracommunicator.
        Unsupported: there is no MPI.
    """
    private = channel(comm)
    reasons = {name: algorithm_refusal(_algorithm(name), sweep.dtype, sweep.op) for name in sweep.algorithms}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    names = [name for name in sweep.algorithms if name not in refused]
    rows: list[Row] = []
    for size in sweep.sizes:
        elements = size // DTYPES[sweep.dtype].itemsize
        problem = AllreduceProblem(elements, sweep.dtype, sweep.op, private.ranks, sweep.pattern, sweep.seed)
        rows += _Contest(private, problem, names).run(sweep.warmup, sweep.iterations)
    processes = private.comm.allgather(Process(private.rank, os.getpid(), node_name()))
    latency = engine(private).line_latency_seconds
    return Result(sweep, tuple(processes), library(), thread_level(), tuple(rows), refused, latency)


class _Contest:
    """All contestants at one size."""

    def __init__(self, private: Channel, problem: AllreduceProblem, names: list[str]) -> None:
        self.private, self.problem, self.names = private, problem, names
        self.pristine = problem.contribution(private.rank)
        self.own, self.poison = (np.empty_like(self.pristine), problem.output()), problem.output()
        if WINDOW in names:
            shape, comm = self.pristine.shape, private.parent
            self.shared = tuple(allreduce_buffer(shape, self.pristine.dtype, comm) for _ in range(2))
        self.verified: dict[str, np.ndarray] = {}  # a contestant's first result, as bytes

    def run(self, warmup: int, iterations: int) -> list[Row]:
        turns = [(name, in_place) for name in self.names for in_place in (False, True)]
        seconds: dict[tuple[str, bool], list[float]] = {turn: [] for turn in turns}
        wrong = dict.fromkeys(turns, 0)
        for iteration in range(-warmup, iterations):
            first = iteration % len(turns) if turns else 0
            for turn in turns[first:] + turns[:first]:
                elapsed, result = self.call(*turn)
                wrong[turn] += self.count_wrong(turn[0], result)
                if iteration >= 0:
                    seconds[turn].append(elapsed)
        timings = {turn: self.gather(seconds[turn], wrong[turn]) for turn in turns}
        return [self.row(name, timings[name, False], timings[name, True]) for name in self.names]

    def call(self, name: str, in_place: bool) -> tuple[float, np.ndarray]:
        """One timed call on fresh data: this rank's seconds, and the result."""
        x, out = self.shared if name == WINDOW else self.own
        x[:], out[:] = self.pristine, self.poison
        target, algorithm = x if in_place else out, _algorithm(name)
        self.private.synchronise()
        start = time.perf_counter()
        allreduce(x, self.private.parent, self.problem.op, algorithm, out=target, checked=False)
        return time.perf_counter() - start, target

    def count_wrong(self, name: str, result: np.ndarray) -> int:
        """How many elements of this rank's result are wrong. Collective at a contestant's first result."""
        data = result.view(np.uint8)
        if name not in self.verified:
            wrong = self.first_wrong(name, result)
        elif np.array_equal(data, self.verified[name]):
            return 0
        elif name != "mpi":
            return _differing(data, self.verified[name], result.itemsize)
        else:
            wrong = self.problem.verify_share(result).wrong  # the library has changed its algorithm, which it may
        self.verified[name] = data.copy()
        return wrong

    def first_wrong(self, name: str, result: np.ndarray) -> int:
        """Against the reference; and against rank 0's bits, which pyhpc's algorithms promise to all ranks."""
        data = result.view(np.uint8)
        alike = len(set(self.private.comm.allgather(zlib.crc32(data.tobytes())))) == 1
        wrong = self.problem.verify_share(result, self.private.rank if alike else None).wrong
        if not alike and name != "mpi":
            wrong += _differing(data, self.private.comm.bcast(data), result.itemsize)
        return wrong

    def gather(self, seconds: list[float], wrong: int) -> Timing:
        everybody = self.private.comm.allgather(tuple(seconds))
        return Timing(tuple(everybody), self.private.comm.allreduce(wrong, mpi().SUM))

    def row(self, name: str, out_of_place: Timing, in_place: Timing) -> Row:
        problem, ranks = self.problem, self.private.ranks
        request = Request(problem.elements, problem.dtype, problem.op, _algorithm(name), "fast")
        playing = chosen(request, ranks, engine(self.private).one_node)
        played = "mpi" if playing is None else playing.name
        return Row(name, played, problem.message_bytes, problem.elements, ranks, out_of_place, in_place)


def _algorithm(contestant: str) -> str:
    """What `allreduce` is asked for."""
    return "auto" if contestant == WINDOW else contestant


def _differing(a: np.ndarray, b: np.ndarray, itemsize: int) -> int:
    """How many elements of `itemsize` bytes are not the same bytes."""
    return int((a.reshape(-1, itemsize) != b.reshape(-1, itemsize)).any(axis=1).sum())
