"""The messages of all ranks in each step of a schedule, as arrays: what a proof, a price and a picture are made from.

`walk(algorithm, ranks)` evaluates the algorithm's steps for all ranks at once. In a step the k-th send from a to b is
received by the k-th receive of b from a; both must name the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pyhpc.kernels.schedules.schedule import NOBODY, Action, Algorithm, Index, Reduce, Round, Send


class ProofError(AssertionError):
    """A schedule that is not an all-reduce; the sentence says which rule is broken where."""


class Ends(NamedTuple):
    """One end of each message of an action, in rows: the sends, or the receives from one of its peers."""

    rank: np.ndarray
    peer: np.ndarray
    first: np.ndarray
    last: np.ndarray


class Part(NamedTuple):
    """An action, with the ranks that take part in it: the rows of its last peer."""

    action: Action
    ends: Ends


@dataclass(frozen=True)
class Step:
    """All messages of a step: row k of `sends` arrives as row k of `receives`, which are in receiving order."""

    parts: tuple[Part, ...]  # the actions in which any rank takes part
    sends: Ends
    receives: Ends
    reduced: np.ndarray  # whether the message is combined; otherwise it is copied


def walk(algorithm: Algorithm, ranks: int) -> Iterator[Step]:
    """The steps in which anything is sent.

    Raises:
        ProofError: a message that is never sent or never received in its step, or that names other chunks.
    """
    for number, actions in enumerate(algorithm.steps(np.arange(ranks), ranks)):
        step = step_of(actions, ranks, f"step {number}")
        if len(step.reduced):
            yield step


def step_of(actions: Round, ranks: int, where: str) -> Step:
    """The messages of one step of all ranks; `where` is for the sentence that refuses them."""
    parts = tuple(
        part for action in actions if len((part := Part(action, ends_of(action, action.peer, ranks))).ends.rank)
    )
    sends = _joined([ends for action, ends in parts if isinstance(action, Send)])
    received: list[Ends] = []
    reduced = [np.empty(0, bool)]
    for action, ends in parts:
        if not isinstance(action, Send):
            before = action.before if isinstance(action, Reduce) else ()
            messages = [*(ends_of(action, peer, ranks) for peer in before), ends]
            received += messages
            reduced.append(np.full(sum(len(rows.rank) for rows in messages), isinstance(action, Reduce)))
    return Step(parts, *_matched(sends, _joined(received), ranks, where), np.concatenate(reduced))


def ends_of(action: Action, peer: Index, ranks: int) -> Ends:
    """The rows of the ranks that take part in an action with this one of its peers."""
    rank = np.flatnonzero(at(peer, np.arange(ranks)) != NOBODY)
    ends = Ends(rank, at(peer, rank), at(action.chunks[0], rank), at(action.chunks[1], rank))
    if len(rank) and not 0 <= ends.peer.min() <= ends.peer.max() < ranks:
        raise ProofError(f"'{action}' names a rank that does not exist")
    return ends


def at(value: Any, rank: np.ndarray) -> np.ndarray:
    """What a field of an action is at these ranks."""
    return value[rank] if isinstance(value, np.ndarray) and value.ndim else np.full(len(rank), value)


def _joined(ends: list[Ends]) -> Ends:
    if not ends:
        nothing = np.empty(0, np.int64)
        return Ends(nothing, nothing, nothing, nothing)
    return Ends(*(np.concatenate(column) for column in zip(*ends, strict=True)))


def _matched(sends: Ends, receives: Ends, ranks: int, where: str) -> tuple[Ends, Ends]:
    """The sends in the order of the receives that take them."""
    sent, awaited = sends.rank * ranks + sends.peer, receives.peer * ranks + receives.rank
    # Stable: between two ranks the order stays as listed.
    by_sender, by_receiver = np.argsort(sent, kind="stable"), np.argsort(awaited, kind="stable")
    if len(sent) != len(awaited) or (sent[by_sender] != awaited[by_receiver]).any():
        unreceived, unsent = _surplus(sent, awaited), _surplus(awaited, sent)
        if unsent is not None:
            sender, receiver = divmod(unsent, ranks)
            raise ProofError(f"{where}: deadlock, rank {receiver} waits for a message that rank {sender} never sends")
        assert unreceived is not None
        sender, receiver = divmod(unreceived, ranks)
        raise ProofError(f"{where}: a message from rank {sender} is never received by rank {receiver}")
    taken = np.empty(len(sent), np.int64)
    taken[by_receiver] = by_sender
    sends = Ends(*(column[taken] for column in sends))
    differ = np.flatnonzero((sends.first != receives.first) | (sends.last != receives.last))
    if len(differ):
        k = differ[0]
        raise ProofError(
            f"{where}: rank {receives.rank[k]} awaits chunks {receives.first[k]}:{receives.last[k]} from rank "
            f"{sends.rank[k]} and is sent chunks {sends.first[k]}:{sends.last[k]}"
        )
    return sends, receives


def _surplus(keys: np.ndarray, others: np.ndarray) -> int | None:
    """A key that is more often in `keys` than in `others`."""
    found, counts = np.unique(keys, return_counts=True)
    sorted_others = np.sort(others)
    there = np.searchsorted(sorted_others, found, "right") - np.searchsorted(sorted_others, found, "left")
    more = found[counts > there]
    return int(more[0]) if len(more) else None
