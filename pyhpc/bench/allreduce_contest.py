"""The all-reduce benchmark on the ranks of one launch: at each size all contestants, taking turns.

The order is another one in each iteration, alike on all ranks: a disturbance of the machine meets all, and so does the
advantage of coming after a contestant whose instructions are still in the caches. Beside the contestants three calls
are timed that are no all-reduce: a copy of the vector on all ranks at once with ordinary and with streaming stores, and
a copy of one element, which is the time of a call; they make the bound (see allreduce.py).
"""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhpc.bench.allreduce import WINDOW, Process, Result, Row, Sweep, Timing
from pyhpc.comm import Channel, channel, library, mpi, node, node_name, thread_level
from pyhpc.kernels.allreduce import allreduce
from pyhpc.kernels.allreduce_persistent import allreduce_buffer
from pyhpc.kernels.allreduce_plan import MPI_BLOCK, Request, chosen, engine
from pyhpc.kernels.allreduce_problem import AllreduceProblem
from pyhpc.kernels.allreduce_variants import algorithm_refusal
from pyhpc.kernels.data import DTYPES
from pyhpc.measure.cache import evict_caches
from pyhpc.native import cpu

_Call = Callable[[np.ndarray, np.ndarray], object]  # call(source, target)
_MOST_CALLS, _TURN_BYTES = 16, 1 << 18
_COPIES = ("copy", "streaming copy", "call")


def benchmark(sweep: Sweep, comm: Any = None) -> Result:
    """Measure `sweep` on the ranks of `comm` (default: the world). Collective; every rank gets the result.

    Raises:
        InvalidArgument: `comm` is no intracommunicator.
        Unsupported: there is no MPI.
    """
    private = channel(comm)
    reasons = {name: algorithm_refusal(algorithm_of(name), sweep.dtype, sweep.op) for name in sweep.algorithms}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    names = [name for name in sweep.algorithms if name not in refused]
    rows: list[Row] = []
    for size in sweep.sizes:
        elements = size // DTYPES[sweep.dtype].itemsize
        problem = AllreduceProblem(elements, sweep.dtype, sweep.op, private.ranks, sweep.pattern, sweep.seed)
        contest = Contest(private, problem, names)
        for cache in sweep.caches:
            rows += contest.run(cache, sweep.turns(size, cache))
    processes = private.comm.allgather(Process(private.rank, os.getpid(), node_name()))
    latency = engine(private).line_latency_seconds
    return Result(sweep, tuple(processes), library(), thread_level(), tuple(rows), refused, latency)


class Contest:
    """One size. Collective, like its methods."""

    def __init__(self, private: Channel, problem: AllreduceProblem, names: list[str]) -> None:
        self.private, self.problem, self.names = private, problem, names
        self.pristine = problem.contribution(private.rank)
        self.poison = problem.output()
        # Calls of a turn, each on arrays of its own that begin a cache line; short ones are many, against the clock's
        # and the barrier's share, and all fit into a second-level cache.
        calls = max(1, min(_MOST_CALLS, _TURN_BYTES // max(1, self.pristine.nbytes)))
        line = 64 // self.pristine.itemsize
        shape, dtype = (calls, -(-problem.elements // line) * line), self.pristine.dtype

        def rows(array: np.ndarray) -> list[np.ndarray]:
            return [row[: problem.elements] for row in array]

        self.own = tuple(rows(np.empty(shape, dtype)) for _ in range(2))
        if WINDOW in names:
            self.shared = tuple(rows(allreduce_buffer(shape, dtype, private.parent)) for _ in range(2))
        self.evicts = self.first_of_its_cores()
        self.verified: dict[str, np.ndarray] = {}  # a contestant's first result, as bytes

    def run(self, cache: str, iterations: range) -> list[Row]:
        """Time the iterations, of which the negative ones do not count."""
        turns = [(name, in_place) for name in self.names for in_place in (False, True)]
        turns += [(name, False) for name in _COPIES]
        seconds: dict[tuple[str, bool], list[float]] = {turn: [] for turn in turns}
        wrong = dict.fromkeys(turns, 0)
        for iteration in iterations:
            for name, in_place in random.Random(iteration).sample(turns, len(turns)):
                elapsed, results = self.take_turn(name, in_place, cache)
                for result in results if name not in _COPIES else ():
                    wrong[name, in_place] += self.count_wrong(name, result)
                if iteration >= 0:
                    seconds[name, in_place].append(elapsed)
        timings = {turn: self.gather(seconds[turn], wrong[turn]) for turn in turns}
        bound = self.bound(*(timings[name, False].median for name in _COPIES))
        return [self.row(name, cache, bound, timings[name, False], timings[name, True]) for name in self.names]

    def take_turn(self, name: str, in_place: bool, cache: str) -> tuple[float, list[np.ndarray]]:
        """Timed calls on fresh data: this rank's seconds of one, and the results."""
        sources, results = self.shared if name == WINDOW else self.own
        targets = sources if in_place else results
        for source, result in zip(sources, results, strict=True):
            source[:], result[:] = self.pristine, self.poison
        call = self.copying(name) if name in _COPIES else self.reducing(name)
        pairs = list(zip(sources, targets, strict=True))
        if cache == "cold":
            self.private.synchronise()
            evict_caches() if self.evicts else None
        self.private.synchronise()
        start = time.perf_counter()
        for source, target in pairs:
            call(source, target)
        return (time.perf_counter() - start) / len(pairs), targets

    def reducing(self, name: str) -> _Call:
        """The call of a contestant."""
        comm, op, algorithm = self.private.parent, self.problem.op, algorithm_of(name)
        if name == "mpi" and self.problem.elements < MPI_BLOCK:
            # As a program calls it: what pyhpc.allreduce does around it is not the library's time.
            library, operation, here = self.private.comm, getattr(mpi(), op.upper()), mpi().IN_PLACE
            return lambda source, target: library.Allreduce(here if target is source else source, target, operation)
        return lambda source, target: allreduce(source, comm, op, algorithm, out=target, checked=False)

    def copying(self, name: str) -> _Call:
        """A call that copies the words of this rank's vector, or one word."""
        size = 8 if name == "call" else self.pristine.nbytes // 8 * 8
        if self.pristine.nbytes < 8:
            return lambda source, target: None

        def copy(source: np.ndarray, target: np.ndarray) -> None:
            words = (array.view(np.uint8)[:size].view(np.float64) for array in (source, target))
            cpu().memory.run("copy", next(words), None, next(words), 1, name == "streaming copy", 1)

        return copy

    def bound(self, copy: float, streaming_copy: float, call: float) -> float:
        """Seconds that no all-reduce can beat."""
        return max(engine(self.private).line_latency_seconds, min(copy, streaming_copy) - call)

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

    def first_of_its_cores(self) -> bool:
        """Whether no rank before this one in the node may use the same cores: it makes their caches cold."""
        neighbours = node(self.private.comm)
        cores = neighbours.allgather(os.sched_getaffinity(0))
        first: bool = cores.index(os.sched_getaffinity(0)) == neighbours.Get_rank()
        neighbours.Free()
        return first

    def row(self, name: str, cache: str, bound: float, out_of_place: Timing, in_place: Timing) -> Row:
        problem, ranks = self.problem, self.private.ranks
        request = Request(problem.elements, problem.dtype, problem.op, algorithm_of(name), "fast")
        playing = chosen(request, engine(self.private))
        played = "mpi" if playing is None else playing.name
        numbers = (problem.message_bytes, problem.elements, ranks)
        return Row(name, played, *numbers, cache, bound, out_of_place, in_place)


def algorithm_of(contestant: str) -> str:
    """What `allreduce` is asked for."""
    return "auto" if contestant == WINDOW else contestant


def _differing(a: np.ndarray, b: np.ndarray, itemsize: int) -> int:
    """How many elements of `itemsize` bytes are not the same bytes."""
    return int((a.reshape(-1, itemsize) != b.reshape(-1, itemsize)).any(axis=1).sum())
