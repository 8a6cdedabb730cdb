"""What an all-reduce algorithm is: a schedule, plain data that is proved, priced, drawn and executed as it stands.

A vector is cut into `chunks(ranks)` chunks. All ranks walk through the same steps; in each a rank has a tuple of
actions over ranges of chunks:

    Send(peer, chunks, source)          send these chunks of the input or of the result
    Reduce(peer, chunks, own, order)    receive these chunks and write  result = own op received  (or received op own)
    Copy(peer, chunks)                  receive these chunks into the result

All sends of a step carry what the rank held when the step began; the receives follow in the order listed; the step ends
when all are complete. A message is received in the step in which it is sent, and between two ranks messages arrive in
the order sent. `rounds(rank, ranks)` is what one rank plays: its steps without the idle ones. The result of every chunk
is a fixed expression, so that the order of the reduction, and with it every bit, is part of the schedule.

Reading the input until a chunk of the result is first written, instead of copying it first, saves one pass over memory.

An algorithm writes its steps once, with `where` in place of `if`, for one rank (a number) or for many at once (arrays):
a rank that plays computes its own rounds only, and 100 000 ranks are priced by a few array operations a step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pyhpc.registry import members

Buffer = Literal["input", "result"]
Index = Any  # a number, or an array of numbers with one entry a rank
Chunks = tuple[Index, Index]  # first, one past the last
NOBODY = -1  # the peer of a rank that does not take part in an action


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`, for numbers and for arrays."""
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else (yes if condition else no)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a range of chunks to `peer`."""

    peer: Index
    chunks: Chunks
    source: Buffer

    def __str__(self) -> str:
        return f"send {self.source}[{self.chunks[0]}:{self.chunks[1]}] to {self.peer}"


@dataclass(frozen=True, slots=True)
class Reduce:
    """Receive a range of chunks and combine it with the rank's own: result = left op right.

    What is received is the message of `peer`; where other ranks' messages come `before`, it is all of them combined
    from left to right, the one of `peer` last.
    """

    peer: Index
    chunks: Chunks
    own: Buffer
    own_is_left: bool  # result = own op received; otherwise received op own
    before: tuple[Index, ...] = ()

    def __str__(self) -> str:
        name = f"[{self.chunks[0]}:{self.chunks[1]}]"
        own, received = f"{self.own}{name}", " op ".join(f"from {peer}" for peer in (*self.before, self.peer))
        if self.before and self.own_is_left:
            received = f"({received})"
        left, right = (own, received) if self.own_is_left else (received, own)
        return f"result{name} = {left} op {right}"


@dataclass(frozen=True, slots=True)
class Copy:
    """Receive a range of chunks from `peer` into the result."""

    peer: Index
    chunks: Chunks

    def __str__(self) -> str:
        return f"result[{self.chunks[0]}:{self.chunks[1]}] = from {self.peer}"


Action = Send | Reduce | Copy
Round = tuple[Action, ...]
Steps = Iterator[Round]


@dataclass(frozen=True)
class Path:
    """The most of any rank, summed over the steps, as the formula gives it: exactly, or at most."""

    messages: float  # sequential messages
    volume: float  # vector lengths moved, one after the other
    reduced: float  # vector lengths reduced, one after the other

    def __add__(self, other: Path) -> Path:
        return Path(self.messages + other.messages, self.volume + other.volume, self.reduced + other.reduced)


@dataclass(frozen=True)
class Model:
    """A latency–bandwidth–reduction model: what a message, a byte moved and a byte reduced cost."""

    seconds_per_message: float
    seconds_per_byte: float
    seconds_per_reduced_byte: float

    def seconds(self, path: Path, bytes: int) -> float:
        """Time of a critical path for a vector of so many bytes."""
        return (
            path.messages * self.seconds_per_message
            + path.volume * bytes * self.seconds_per_byte
            + path.reduced * bytes * self.seconds_per_reduced_byte
        )


@dataclass(frozen=True)
class Algorithm:
    """One way to all-reduce."""

    name: str
    summary: str  # one line with its source
    chunks: Callable[[int], int]  # chunks(ranks)
    steps: Callable[[Index, int], Steps]  # steps(rank or ranks, ranks), the same number for every rank
    path: Callable[[int], Path]  # path(ranks): the formula
    messages: Callable[[int], int]  # messages(ranks): sent in all by all ranks
    volume: Callable[[int], float]  # volume(ranks): vector lengths sent in all by all ranks
    inside: Callable[[int], Path] | None = None  # inside(ranks): the part of the path that is inside nodes
    # runs(rank or ranks, ranks): how many alike steps follow each other, and the first of them, where there are many
    runs: Callable[[Index, int], Iterator[tuple[int, Round]]] | None = None

    def rounds(self, rank: int, ranks: int) -> tuple[Round, ...]:
        """What one rank plays: its steps with its own actions, without those in which it has none."""
        mine = (tuple(own for action in step if (own := _present(action))) for step in self.steps(rank, ranks))
        return tuple(actions for actions in mine if actions)

    def text(self, ranks: int, only: int | None = None) -> str:
        """The schedule of every rank, or of one, readable: a line a round and rank."""
        return "\n".join(self._lines(ranks, range(ranks) if only is None else (only,)))

    def _lines(self, ranks: int, shown: Iterable[int]) -> Iterator[str]:
        yield f"{self.name} on {ranks} ranks, {self.chunks(ranks)} chunks"
        for rank in shown:
            for number, actions in enumerate(self.rounds(rank, ranks)):
                yield f"rank {rank} round {number}: {'; '.join(map(str, actions))}"


def _present(action: Action) -> Action | None:
    """The action of one rank, or None where it takes no part in it."""
    if action.peer == NOBODY:
        return None
    if isinstance(action, Reduce) and NOBODY in action.before:
        return replace(action, before=tuple(peer for peer in action.before if peer != NOBODY))
    return action


@functools.cache
def algorithms() -> dict[str, Algorithm]:
    """Every algorithm of this folder by name, in the folder's order."""
    return members("pyhpc.kernels.schedules", "ALGORITHM")


def bounds(elements: int, chunks: int, elements_per_line: int) -> tuple[int, ...]:
    """Where the chunks begin and end: equal multiples of a cache line, the last ones shorter or empty."""
    step = math.ceil(math.ceil(elements / chunks) / elements_per_line) * elements_per_line
    return tuple(min(elements, step * index) for index in range(chunks + 1))
