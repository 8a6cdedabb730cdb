"""Proof by symbolic execution that a schedule is an all-reduce.

Every rank's chunks hold expressions instead of numbers: a leaf is one rank's contribution, a node is (left op right).
Playing the schedule of all ranks, step by step, shows

- no deadlock: every message is received in the step in which it is sent, so that all ranks can walk through the steps
  side by side, even where a send ends only when it is received;
- exactly once: no expression is combined with one that shares a contribution, and at the end every chunk of every rank
  has all contributions;
- equal bits: at the end all ranks hold the same expression, so any deterministic op gives all of them the same bits;
- in place too: the input is read only until the result is first written there, the result only from then on;
- no race: nothing is received into memory that the same step sends or combines;
- the formula: as many messages, of as much volume, as the algorithm says.

All chunks of all ranks are exact; nothing is sampled. Each action of a step is a few array operations over all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyhpc.kernels.schedules.expressions import Expressions, Twice
from pyhpc.kernels.schedules.messages import Ends, Part, ProofError, Step, at, ends_of, walk
from pyhpc.kernels.schedules.schedule import Algorithm, Copy, Path, Reduce, Send

__all__ = ["Proof", "ProofError", "prove"]


@dataclass(frozen=True)
class Proof:
    """What was shown, and what was counted on the way."""

    messages: int  # sent by all ranks
    volume: float  # vector lengths sent by all ranks
    steps: int
    path: Path  # the sum over the steps of the most that any rank sends or receives, and reduces
    rank_order: bool  # contributions are combined in rank order: right for non-commutative operations too


class _World:
    """The memory of all ranks: an expression for each chunk of each rank."""

    def __init__(self, algorithm: Algorithm, ranks: int) -> None:
        self.ranks, self.chunks = ranks, algorithm.chunks(ranks)
        self.expressions = Expressions(ranks)
        self.held = np.repeat(np.arange(ranks, dtype=np.int64), self.chunks)  # chunk c of rank r: r · chunks + c
        self.written = np.zeros(ranks * self.chunks, bool)  # the result lies there, no longer the input
        self.copied_in = np.zeros(ranks * self.chunks, np.int32)  # the last step that copied into a chunk
        self.step = 0

    def cells(self, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
        """Where the chunks of all rows lie, one row after the other, and where each row begins among them."""
        lengths = ends.last - ends.first
        wrong = np.flatnonzero((lengths <= 0) | (ends.first < 0) | (ends.last > self.chunks))
        if len(wrong):
            k = wrong[0]
            raise ProofError(
                f"rank {ends.rank[k]} step {self.step}: chunks {ends.first[k]}:{ends.last[k]} do not exist"
            )
        edges = np.concatenate([[0], np.cumsum(lengths)])
        begins = ends.rank * self.chunks + ends.first
        return np.repeat(begins - edges[:-1], lengths) + np.arange(edges[-1]), edges

    def read(self, cells: np.ndarray, from_result: np.ndarray) -> np.ndarray:
        """The expressions there; the buffer that is named must be the one that still, or already, holds them."""
        wrong = np.flatnonzero(self.written[cells] != from_result)
        if len(wrong):
            rank, chunk = divmod(int(cells[wrong[0]]), self.chunks)
            named = "result is read before it is" if from_result[wrong[0]] else "input is read after the result was"
            raise ProofError(f"rank {rank} step {self.step}: chunk {chunk} of the {named} written there")
        held: np.ndarray = self.held[cells]
        return held

    def play(self, step: Step) -> None:
        self.step += 1
        self.expressions.next_step()
        places = [self.cells(ends) for _, ends in step.parts]
        for (action, ends), (cells, edges) in zip(step.parts, places, strict=True):
            if isinstance(action, Send):
                self.read(cells, _of_cells(np.asarray(action.source) == "result", ends.rank, edges))
        sent_cells, _ = self.cells(step.sends)
        self.refuse_races(step, sent_cells, [cells for cells, _ in places])
        carried, begin = self.held[sent_cells], 0  # the messages' contents, in receiving order
        for part, (cells, edges) in zip(step.parts, places, strict=True):
            if not isinstance(part.action, Send):
                begin = self.receive(part, carried, begin, cells, edges)

    def receive(self, part: Part, carried: np.ndarray, begin: int, cells: np.ndarray, edges: np.ndarray) -> int:
        """Carry out one receiving action of all ranks, whose messages begin at `begin` in `carried`; where they end."""
        action = part.action
        if isinstance(action, Reduce) and action.before:  # several messages, combined from left to right
            operand = np.full(self.ranks * self.chunks, -1)
            for peer in action.before:
                there, _ = self.cells(ends_of(action, peer, self.ranks))
                begin, values = begin + len(there), carried[begin : begin + len(there)]
                operand[there] = self.joined(operand[there], values, there)
            values = self.joined(operand[cells], carried[begin : begin + len(cells)], cells)
        else:
            values = carried[begin : begin + len(cells)]
        if isinstance(action, Reduce):
            own = self.read(cells, _of_cells(np.asarray(action.own) == "result", part.ends.rank, edges))
            left = _of_cells(action.own_is_left, part.ends.rank, edges)
            values = self.node(np.where(left, own, values), np.where(left, values, own), cells)
        self.held[cells] = values
        self.written[cells] = True
        return begin + len(cells)

    def joined(self, operand: np.ndarray, values: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """`operand` op `values`; `values` alone where there is no operand yet."""
        begun = operand >= 0
        found: np.ndarray = values.copy()
        found[begun] = self.node(operand[begun], values[begun], cells[begun])
        return found

    def node(self, left: np.ndarray, right: np.ndarray, cells: np.ndarray) -> np.ndarray:
        try:
            return self.expressions.nodes(left, right)
        except Twice as pair:
            rank, chunk = divmod(int(cells[pair.args[0]]), self.chunks)
            raise ProofError(
                f"rank {rank} step {self.step} chunk {chunk}: a contribution would be counted twice"
            ) from None

    def refuse_races(self, step: Step, sent_cells: np.ndarray, places: list[np.ndarray]) -> None:
        """A copy is received straight into the result: nothing else of its step may touch those chunks."""
        touched = [sent_cells]
        for (action, _), cells in zip(step.parts, places, strict=True):
            if isinstance(action, Copy):
                self.refuse_copied(cells)
                self.copied_in[cells] = self.step
            elif isinstance(action, Reduce):
                touched.append(cells)
        if not step.reduced.all():
            self.refuse_copied(np.concatenate(touched))

    def refuse_copied(self, cells: np.ndarray) -> None:
        wrong = np.flatnonzero(self.copied_in[cells] == self.step)
        if len(wrong):
            rank, chunk = divmod(int(cells[wrong[0]]), self.chunks)
            raise ProofError(f"rank {rank} step {self.step}: a copy into chunk {chunk} races with another action")


def _of_cells(value: object, rank: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What a field of an action is for each chunk of each row."""
    return np.repeat(at(value, rank), np.diff(edges))


def _busiest(ranks: np.ndarray, weights: np.ndarray | None, count: int) -> float:
    """The largest sum of weights of any rank."""
    return float(np.bincount(ranks, weights, count).max()) if len(ranks) else 0.0


def _step_path(step: Step, world: _World) -> Path:
    """The most that any rank sends or receives, and reduces, in this step."""
    ends, count = (step.sends, step.receives), world.ranks
    size = (step.receives.last - step.receives.first) / world.chunks
    messages = max(_busiest(end.rank, None, count) for end in ends)
    volume = max(_busiest(end.rank, size, count) for end in ends)
    return Path(messages, volume, _busiest(step.receives.rank[step.reduced], size[step.reduced], count))


def prove(algorithm: Algorithm, ranks: int) -> Proof:
    """Show that `algorithm` on `ranks` ranks is an all-reduce, in place and not.

    Raises:
        ProofError: it is not; the sentence says which rule is broken where.
    """
    world = _World(algorithm, ranks)
    messages = chunks_sent = 0
    paths = []
    for step in walk(algorithm, ranks):
        world.play(step)
        messages += len(step.sends.rank)
        chunks_sent += int((step.sends.last - step.sends.first).sum())
        paths.append(_step_path(step, world))
    result = world.held.reshape(ranks, world.chunks)
    if not world.expressions.complete(result[0]).all():
        raise ProofError("a chunk ends without every rank's contribution")
    if (result != result[0]).any():
        raise ProofError("two ranks end with different expressions: their bits may differ")
    volume = chunks_sent / world.chunks
    for what, counted, stated in (
        ("messages", messages, algorithm.messages(ranks)),
        ("vectors sent", volume, algorithm.volume(ranks)),
    ):
        if abs(counted - stated) > 1e-9 * counted:
            raise ProofError(f"{counted} {what}, and the formula says {stated}")
    total = np.array([(path.messages, path.volume, path.reduced) for path in paths]).reshape(-1, 3).sum(axis=0)
    ordered = bool(world.expressions.in_rank_order(result[0]).all())
    return Proof(messages, volume, len(paths), Path(*total.tolist()), ordered)
