"""Proof by symbolic execution that a schedule is an all-reduce.

Every rank's chunks hold expressions instead of numbers: a leaf is one rank's contribution, a node is (left op right).
Playing the schedule of all ranks with rendezvous sends (a send ends only when it is received, the strictest an MPI may
be) shows

- no deadlock: every rank reaches the end of its rounds, and no message is left over;
- exactly once: no expression is combined with one that shares a contribution, and at the end every chunk of every rank
  has all contributions;
- equal bits: at the end all ranks hold the same expression, so any deterministic op gives all of them the same bits;
- in place: the same holds where the result lies in the input's memory;
- no race: nothing is received into memory that the same round sends or combines.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from pyhpc.kernels.schedules.schedule import Action, Algorithm, Buffer, Chunks, Copy, Reduce, Round, Send


class ProofError(AssertionError):
    """A schedule that is not an all-reduce; the sentence says which rule is broken where."""


@dataclass(frozen=True)
class Proof:
    """What was shown, and what was counted on the way."""

    messages: int  # sent by all ranks
    chunks_sent: int  # by all ranks; times the chunk's bytes is the volume
    rounds: int  # the most of any rank
    rank_order: bool  # contributions are combined in rank order: right for non-commutative operations too


@dataclass
class _Expressions:
    """Expressions, equal ones stored once: an expression is its number."""

    numbers: dict[tuple[int, int], int] = field(default_factory=dict)  # (left, right) → number
    members: list[int] = field(default_factory=list)  # bit r: rank r contributes
    spans: list[tuple[int, int] | None] = field(
        default_factory=list
    )  # first and last rank if in rank order without gap

    def leaf(self, rank: int) -> int:
        self.members.append(1 << rank)
        self.spans.append((rank, rank))
        return len(self.members) - 1

    def node(self, left: int, right: int, where: str) -> int:
        if self.members[left] & self.members[right]:
            raise ProofError(f"{where}: a contribution would be counted twice")
        if (left, right) not in self.numbers:
            self.numbers[left, right] = len(self.members)
            self.members.append(self.members[left] | self.members[right])
            low, high = self.spans[left], self.spans[right]
            self.spans.append((low[0], high[1]) if low and high and low[1] + 1 == high[0] else None)
        return self.numbers[left, right]


@dataclass(eq=False)
class _Message:
    chunks: Chunks
    values: list[int]


@dataclass
class _Rank:
    """One rank in the middle of its schedule."""

    number: int
    rounds: tuple[Round, ...]
    memory: dict[Buffer, list[int | None]]
    at: int = 0
    begun: bool = False
    sent: list[_Message] = field(default_factory=list)
    waiting: deque[Action] = field(default_factory=deque)  # receives of this round that have not happened

    @property
    def where(self) -> str:
        return f"rank {self.number} round {self.at}"

    def read(self, buffer: Buffer, chunks: Chunks) -> list[int]:
        values = self.memory[buffer][slice(*chunks)]
        if len(values) != chunks[1] - chunks[0] or not values:
            raise ProofError(f"{self.where}: chunks {chunks} do not exist")
        known = [value for value in values if value is not None]
        if len(known) != len(values):
            raise ProofError(f"{self.where}: chunks {chunks} of the result are read before they are written")
        return known


class _World:
    """All ranks and the messages between them."""

    def __init__(self, algorithm: Algorithm, ranks: int, in_place: bool) -> None:
        self.expressions = _Expressions()
        self.channels: dict[tuple[int, int], deque[_Message]] = defaultdict(deque)
        self.messages = self.chunks_sent = 0
        self.in_place = in_place
        chunks = algorithm.chunks(ranks)
        self.ranks = []
        for rank in range(ranks):
            given: list[int | None] = [self.expressions.leaf(rank)] * chunks
            result: list[int | None] = given if in_place else [None] * chunks
            self.ranks.append(_Rank(rank, algorithm.rounds(rank, ranks), {"input": given, "result": result}))

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            for rank in self.ranks:
                while rank.at < len(rank.rounds) and self.advance(rank):
                    moved = True
        stuck = [rank.where for rank in self.ranks if rank.at < len(rank.rounds)]
        if stuck:
            raise ProofError(f"deadlock: {', '.join(stuck)} can never end")
        if any(self.channels.values()):
            raise ProofError("a message is never received")

    def advance(self, rank: _Rank) -> bool:
        """Let `rank` do what it can; whether it did anything."""
        moved = False
        if not rank.begun:
            self.begin(rank)
            moved = True
        for action in tuple(rank.waiting):
            channel = self.channels[action.peer, rank.number]
            if not channel:
                break  # receives are carried out in the listed order
            self.receive(rank, action, channel.popleft())
            rank.waiting.popleft()
            moved = True
        if not rank.waiting and not any(
            message in self.channels[rank.number, peer] for peer, message in self.sends(rank)
        ):
            rank.at, rank.begun, moved = rank.at + 1, False, True
        return moved

    def sends(self, rank: _Rank) -> list[tuple[int, _Message]]:
        peers = [action.peer for action in rank.rounds[rank.at] if isinstance(action, Send)]
        return list(zip(peers, rank.sent, strict=True))

    def begin(self, rank: _Rank) -> None:
        actions = rank.rounds[rank.at]
        self.check_races(rank, actions)
        rank.begun, rank.sent = True, []
        for action in actions:
            if isinstance(action, Send):
                message = _Message(action.chunks, rank.read(action.source, action.chunks))
                rank.sent.append(message)
                self.channels[rank.number, action.peer].append(message)
                self.messages += 1
                self.chunks_sent += len(message.values)
        rank.waiting = deque(action for action in actions if not isinstance(action, Send))

    def check_races(self, rank: _Rank, actions: Round) -> None:
        """A copy is received straight into the result: nothing else of its round may touch those chunks."""
        for copy in actions:
            for other in actions:
                touches = not isinstance(other, Send) or other.source == "result" or self.in_place
                if isinstance(copy, Copy) and other is not copy and touches and _overlap(copy.chunks, other.chunks):
                    raise ProofError(f"{rank.where}: '{copy}' races with '{other}'")

    def receive(self, rank: _Rank, action: Action, message: _Message) -> None:
        if message.chunks != action.chunks:
            raise ProofError(f"{rank.where}: '{action}' is sent chunks {message.chunks}")
        values = message.values
        if isinstance(action, Reduce):
            pairs = zip(rank.read(action.own, action.chunks), message.values, strict=True)
            ordered = [pair if action.own_is_left else pair[::-1] for pair in pairs]
            values = [self.expressions.node(left, right, rank.where) for left, right in ordered]
        rank.memory["result"][slice(*action.chunks)] = values


def _overlap(a: Chunks, b: Chunks) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def prove(algorithm: Algorithm, ranks: int) -> Proof:
    """Show that `algorithm` on `ranks` ranks is an all-reduce, in place and not.

    Raises:
        ProofError: it is not; the sentence says which rule is broken where.
    """
    for in_place in (True, False):
        world = _World(algorithm, ranks, in_place)
        world.run()
        results = [rank.read("result" if ranks > 1 else "input", (0, algorithm.chunks(ranks))) for rank in world.ranks]
        if any(world.expressions.members[value] != (1 << ranks) - 1 for value in results[0]):
            raise ProofError("a chunk ends without every rank's contribution")
        if any(result != results[0] for result in results):
            raise ProofError("two ranks end with different expressions: their bits may differ")
    return Proof(
        messages=world.messages,
        chunks_sent=world.chunks_sent,
        rounds=max(len(rank.rounds) for rank in world.ranks),
        rank_order=all(world.expressions.spans[value] == (0, ranks - 1) for value in results[0]),
    )
