"""What an all-reduce algorithm is: a schedule, plain data that is proved, priced and executed by one reading of it.

A vector is cut into `chunks(ranks)` chunks. Each rank follows `rounds(rank, ranks)`: an ordered list of rounds, a round
being a tuple of actions over ranges of chunks:

    Send(peer, chunks, source)          send these chunks of the input or of the result
    Reduce(peer, chunks, own, order)    receive these chunks and write  result = own op received  (or received op own)
    Copy(peer, chunks)                  receive these chunks into the result

All sends of a round carry what the rank held when the round began; a round ends when its sends and receives are
complete. Between two ranks messages arrive in the order sent. The result of every chunk is a fixed expression, so that
the order of the reduction, and with it every bit, is part of the schedule.

Reading the input until a chunk of the result is first written, instead of copying it first, saves one pass over memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pyhpc.registry import members

Buffer = Literal["input", "result"]
Chunks = tuple[int, int]  # first, one past the last


@dataclass(frozen=True, slots=True)
class Send:
    """Send a range of chunks to `peer`."""

    peer: int
    chunks: Chunks
    source: Buffer

    def __str__(self) -> str:
        return f"send {self.source}[{self.chunks[0]}:{self.chunks[1]}] to {self.peer}"


@dataclass(frozen=True, slots=True)
class Reduce:
    """Receive a range of chunks from `peer` and combine it with the rank's own: result = left op right."""

    peer: int
    chunks: Chunks
    own: Buffer
    own_is_left: bool  # result = own op received; otherwise received op own

    def __str__(self) -> str:
        name = f"[{self.chunks[0]}:{self.chunks[1]}]"
        own, received = f"{self.own}{name}", f"from {self.peer}"
        left, right = (own, received) if self.own_is_left else (received, own)
        return f"result{name} = {left} op {right}"


@dataclass(frozen=True, slots=True)
class Copy:
    """Receive a range of chunks from `peer` into the result."""

    peer: int
    chunks: Chunks

    def __str__(self) -> str:
        return f"result[{self.chunks[0]}:{self.chunks[1]}] = from {self.peer}"


Action = Send | Reduce | Copy
Round = tuple[Action, ...]


@dataclass(frozen=True)
class Model:
    """The latency–bandwidth–reduction model of a network: the prior with which "auto" chooses.

    The defaults are those of ranks of one node that exchange messages from Python: 10 us a message (the ring's second
    message at 8 B to 4 KiB, MPICH 5 on two busy virtual Ice Lake cores), and rough rates of one core, 5 GB/s of
    transfer and 10 GB/s of reduction. Only their ratios decide.
    """

    seconds_per_message: float = 10e-6
    seconds_per_byte: float = 1 / 5e9
    seconds_per_reduced_byte: float = 1 / 10e9

    def seconds(self, messages: float, bytes: float, reduced_bytes: float) -> float:
        """Time of a critical path with this many messages, bytes moved and bytes reduced, one after the other."""
        return (
            messages * self.seconds_per_message
            + bytes * self.seconds_per_byte
            + reduced_bytes * self.seconds_per_reduced_byte
        )


@dataclass(frozen=True)
class Path:
    """The longest chain of one rank, as the literature's formula gives it."""

    messages: float  # sequential messages
    volume: float  # vector lengths moved, one after the other
    reduced: float  # vector lengths reduced, one after the other


@dataclass(frozen=True)
class Algorithm:
    """One way to all-reduce."""

    name: str
    summary: str  # one line with its source
    chunks: Callable[[int], int]  # chunks(ranks)
    rounds: Callable[[int, int], tuple[Round, ...]]  # rounds(rank, ranks)
    path: Callable[[int], Path]  # path(ranks): the formula
    messages: Callable[[int], int]  # messages(ranks): sent in all by all ranks

    def seconds(self, ranks: int, bytes: int, model: Model) -> float:
        """The model's price."""
        path = self.path(ranks)
        return model.seconds(path.messages, path.volume * bytes, path.reduced * bytes)

    def text(self, ranks: int) -> str:
        """The whole schedule, readable, a line a round and rank."""
        return "\n".join(self._lines(ranks))

    def _lines(self, ranks: int) -> Iterator[str]:
        yield f"{self.name} on {ranks} ranks, {self.chunks(ranks)} chunks"
        for rank in range(ranks):
            for number, actions in enumerate(self.rounds(rank, ranks)):
                yield f"rank {rank} round {number}: {'; '.join(map(str, actions))}"


@functools.cache
def algorithms() -> dict[str, Algorithm]:
    """Every algorithm of this folder by name, in the folder's order."""
    return members("pyhpc.kernels.schedules", "ALGORITHM")


@functools.lru_cache(maxsize=4096)
def cheapest(ranks: int, bytes: int, model: Model = Model()) -> Algorithm:
    """The algorithm with the lowest price; of equals the one that sends fewer messages one after the other."""
    return min(algorithms().values(), key=lambda a: (a.seconds(ranks, bytes, model), a.path(ranks).messages))


def bounds(elements: int, chunks: int, elements_per_line: int) -> tuple[int, ...]:
    """Where the chunks begin and end: equal multiples of a cache line, the last ones shorter or empty."""
    step = math.ceil(math.ceil(elements / chunks) / elements_per_line) * elements_per_line
    return tuple(min(elements, step * index) for index in range(chunks + 1))
