"""`pyhpc bench allreduce`, what is asked for and what comes out. It times all-reduce algorithms and MPI_Allreduce,
alternately in one run, by nccl-tests' conventions.

A turn is timed from a dissemination barrier to its end, on every rank; the slowest rank's time counts. It is one call,
or of vectors below 256 KiB several, each on arrays of its own. Before it, outside the timed part, all inputs are
rewritten and all outputs poisoned: a buffer that stays in cache or a result that was never written would flatter. Each
contestant's first result is verified against the reference (every rank its share of the elements, all ranks' digests
being equal) and every later one must equal it bit for bit.

Caches are "warm" where the input was just written, as by a program that computed it, and "cold" where the caches of the
ranks' cores were emptied after that. The contest at one size is allreduce_contest.py's, table and JSON are
allreduce_table.py's; several launches on several MPIs are compared by allreduce_launches.py. Formulas: nccl-tests,
doc/PERFORMANCE.md.

The bound. Whatever the algorithm, each rank reads its vector and writes the result: 2 bytes of memory traffic for each
byte of each vector, and no byte of another rank is known before one cache line has come from its core. So

    bound seconds = max(a line between two cores, a copy of the vector on all ranks at once)

where the copy is timed in the same turns and caches, is the faster one of ordinary and streaming stores, and is without
the time of a call. Between nodes the network comes on top.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.allreduce_problem import OPS, algbw, busbw
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.schedules.schedule import algorithms

CACHES = ("warm", "cold")
WINDOW = "window"  # the contestant: "auto" on arrays of allreduce_buffer, which the ranks of a node share


@dataclass(frozen=True)
class Sweep:
    """What is measured."""

    sizes: tuple[int, ...]  # bytes of one rank's vector; rounded down to whole elements
    dtype: str = "float32"
    op: str = "sum"
    algorithms: tuple[str, ...] = ("auto", WINDOW, "mpi")
    # MPI libraries change their algorithm after the first calls on a communicator (MPICH: the fifth); each iteration
    # has two, in place and not.
    warmup: int = 5
    iterations: int = 10
    caches: tuple[str, ...] = ("warm",)
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
        choices["cache"] = CACHES
        asked = [("dtype", self.dtype), ("op", self.op), *(("algorithm", name) for name in self.algorithms)]
        asked += [("cache", name) for name in self.caches]
        for what, value in asked:
            if value not in choices[what]:
                raise InvalidArgument(f"{what} is {value!r}; it must be one of {', '.join(choices[what])}")

    def turns(self, size_bytes: int, cache: str) -> range:
        """The iterations at a size, untimed ones negative: fewer of long vectors and of cold caches, which take long.

        Above 1 MiB so many that the bytes are the same, but 3 timed ones, and as many untimed ones as let an MPI change
        its algorithm; a third of them with cold caches, after the warm ones.
        """
        fewer = max(1, size_bytes // (1 << 20))
        timed, untimed = self.iterations // fewer, self.warmup // fewer
        least = 2
        if cache == "cold":
            timed, untimed, least = timed // 3, 0, 1
        return range(-min(self.warmup, max(least, untimed)), max(min(3, self.iterations), timed))


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
    cache: str  # one of CACHES
    bound_seconds: float  # of the memory traffic and a cache line's way, whichever is longer
    out_of_place: Timing
    in_place: Timing

    def algbw(self, timing: Timing) -> float:
        """Bytes per second."""
        return algbw(self.size_bytes, timing.median)

    def busbw(self, timing: Timing) -> float | None:
        """Bytes per second, None on one rank."""
        return busbw(self.size_bytes, timing.median, self.ranks)

    def share(self, timing: Timing) -> float:
        """The bound divided by the time: 1 is as fast as can be."""
        return self.bound_seconds / timing.median


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
