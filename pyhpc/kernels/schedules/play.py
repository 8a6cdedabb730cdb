"""Execution of a schedule with MPI messages between the ranks' host arrays.

A message is at most a segment long. Reductions are received segment by segment into a small scratch that stays in
cache, so that combining one segment overlaps the transfer of the next ones and no count ever reaches 2^31. Elements
travel as bytes (MPI knows neither bfloat16 nor float16) and are combined by the native reduction, on one thread: the
other cores have ranks of their own.

Why it cannot deadlock: all sends of a round are started before the first wait, and receives are waited for in order of
the segment's index, every Reduce having the same number of segments posted ahead. Waiting for one's own send of segment
k before overwriting it therefore depends on segments ≤ k of the other ranks only.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pyhpc.comm import Channel, mpi
from pyhpc.kernels.schedules.schedule import Action, Algorithm, Copy, Reduce, Send, bounds
from pyhpc.native import cpu

# Long enough that a message's fixed cost (a few microseconds) is small beside its transfer (100 us), short enough that
# the segments in flight stay in the second-level cache.
SEGMENT_BYTES = 512 * 1024
AHEAD = 3  # receives posted ahead for every Reduce
TAG = 1


class _Part(NamedTuple):
    """An action with its range in elements."""

    action: Action
    low: int
    high: int


class _Round(NamedTuple):
    """The parts of a round that are not empty."""

    sends: tuple[_Part, ...]
    receives: tuple[_Part, ...]


@functools.lru_cache(maxsize=64)
def _plan(algorithm: Algorithm, rank: int, ranks: int, elements: int, itemsize: int) -> tuple[_Round, ...]:
    """The rank's rounds for a vector of this length."""
    edges = bounds(elements, algorithm.chunks(ranks), max(1, 64 // itemsize))
    rounds = []
    for actions in algorithm.rounds(rank, ranks):
        parts = [_Part(action, edges[action.chunks[0]], edges[action.chunks[1]]) for action in actions]
        parts = [part for part in parts if part.low < part.high]
        sends = tuple(part for part in parts if isinstance(part.action, Send))
        rounds.append(_Round(sends, tuple(part for part in parts if not isinstance(part.action, Send))))
    return tuple(rounds)


def play(channel: Channel, algorithm: Algorithm, x: np.ndarray, out: np.ndarray, op: str) -> None:
    """out = x₀ op x₁ op … over the ranks of `channel`, in the order that the schedule of `algorithm` states.

    `x` and `out` are contiguous, one-dimensional, of one dtype and length, and either the same object or apart in
    memory. Collective.
    """
    if channel.ranks == 1:
        if out is not x:
            out[:] = x
        return
    player = _Player(channel, x, out, op)
    for sends, receives in _plan(algorithm, channel.rank, channel.ranks, x.size, x.itemsize):
        longest = max((part.high - part.low for part in (*sends, *receives)), default=0)
        if any(isinstance(part.action, Reduce) and part.action.before for part in receives):
            player.gather(sends, receives)
        elif longest <= player.segment and len(sends) <= 1 and len(receives) <= 1:
            player.exchange(sends, receives)
        else:
            player.stream(sends, receives)


class _Receive(NamedTuple):
    """One segment that is being received."""

    part: _Part  # of which it is a segment
    number: int  # of the segment within it
    low: int  # elements
    high: int
    target: np.ndarray  # bytes


class _Sent(NamedTuple):
    """One segment that is being sent, from element `low` on."""

    low: int
    request: Any


class _Player:
    def __init__(self, channel: Channel, x: np.ndarray, out: np.ndarray, op: str) -> None:
        self.channel, self.comm, self.op, self.in_place = channel, channel.comm, op, out is x
        self.arrays = {"input": x, "result": out}
        self.bytes = {"input": x.view(np.uint8), "result": out.view(np.uint8)}
        self.itemsize = x.itemsize
        self.segment = SEGMENT_BYTES // x.itemsize
        self.byte = mpi().BYTE

    def view(self, buffer: str, low: int, high: int) -> np.ndarray:
        return self.bytes[buffer][low * self.itemsize : high * self.itemsize]

    def exchange(self, sends: tuple[_Part, ...], receives: tuple[_Part, ...]) -> None:
        """At most one short message out and one in, in one MPI call."""
        for send, low, high in sends:
            assert isinstance(send, Send)
            outgoing = (self.view(send.source, low, high), self.byte)
            if not receives:
                self.comm.Send(outgoing, send.peer, TAG)
        for action, low, high in receives:
            if isinstance(action, Copy):
                target = self.view("result", low, high)
            else:
                target = self.channel.scratch(SEGMENT_BYTES)[: (high - low) * self.itemsize]
            if sends:
                self.comm.Sendrecv(outgoing, send.peer, TAG, (target, self.byte), action.peer, TAG)
            else:
                self.comm.Recv((target, self.byte), action.peer, TAG)
            self.combine(action, low, high, target)

    def gather(self, sends: tuple[_Part, ...], receives: tuple[_Part, ...]) -> None:
        """Receives of which some combine the messages of several ranks before the rank's own: one after the other."""
        outgoing = []
        for action, low, high in sends:
            assert isinstance(action, Send)
            sent = self.view(action.source, low, high).copy()  # the receives below may overwrite it
            for begin in range(0, sent.size, SEGMENT_BYTES):
                part = (sent[begin : begin + SEGMENT_BYTES], self.byte)
                outgoing.append(self.comm.Isend(part, action.peer, TAG))
        for received in receives:
            size = (received.high - received.low) * self.itemsize
            operand, more = np.empty(size, np.uint8), np.empty(size, np.uint8)
            action = received.action
            before = action.before if isinstance(action, Reduce) else ()
            for number, peer in enumerate((*before, action.peer)):
                target = more if number else operand
                for begin in range(0, size, SEGMENT_BYTES):
                    self.comm.Recv((target[begin : begin + SEGMENT_BYTES], self.byte), peer, TAG)
                if number:
                    left, right = (half.view(self.arrays["input"].dtype) for half in (operand, more))
                    cpu().allreduce.reduce(left, right, left, self.op, threads=1)
            if isinstance(action, Copy):
                self.view("result", received.low, received.high)[:] = operand
            self.combine(action, received.low, received.high, operand)
        for request in outgoing:
            request.Wait()

    def stream(self, sends: tuple[_Part, ...], receives: tuple[_Part, ...]) -> None:
        """Any number of messages of any length: see the head of this file."""
        segments = self.segments_to_receive(receives)
        by_index = {(id(segment.part), segment.number): segment for segment in segments}
        posted = {
            key: self.post(segment)
            for key, segment in by_index.items()
            if segment.number < AHEAD or isinstance(segment.part.action, Copy)
        }
        outgoing = [deque(self.start(send)) for send in sends]
        overwritten = {
            id(part): [queue for queue, send in zip(outgoing, sends, strict=True) if self.conflict(send, part)]
            for part in receives
        }
        for segment in segments:
            posted[id(segment.part), segment.number].Wait()
            # The memory that is written now may still be on its way to another rank.
            for queue in overwritten[id(segment.part)]:
                while queue and queue[0].low < segment.high:
                    queue.popleft().request.Wait()
            self.combine(segment.part.action, segment.low, segment.high, segment.target)
            key = (id(segment.part), segment.number + AHEAD)
            if key in by_index and key not in posted:
                posted[key] = self.post(by_index[key])
        for queue in outgoing:
            for sent in queue:
                sent.request.Wait()

    def segments(self, part: _Part) -> Iterator[tuple[int, int]]:
        return ((low, min(part.high, low + self.segment)) for low in range(part.low, part.high, self.segment))

    def segments_to_receive(self, receives: tuple[_Part, ...]) -> list[_Receive]:
        """All segments to receive, in order of their index, each with the memory it is received into."""
        scratch = self.channel.scratch(len(receives) * AHEAD * SEGMENT_BYTES)
        found = []
        for number, part in enumerate(receives):
            for index, (low, high) in enumerate(self.segments(part)):
                if isinstance(part.action, Copy):
                    target = self.view("result", low, high)
                else:
                    slot = (number * AHEAD + index % AHEAD) * SEGMENT_BYTES
                    target = scratch[slot : slot + (high - low) * self.itemsize]
                found.append(_Receive(part, index, low, high, target))
        return sorted(found, key=lambda receive: receive.number)

    def post(self, receive: _Receive) -> Any:
        return self.comm.Irecv((receive.target, self.byte), receive.part.action.peer, TAG)

    def start(self, part: _Part) -> Iterator[_Sent]:
        send = part.action
        assert isinstance(send, Send)
        for low, high in self.segments(part):
            yield _Sent(low, self.comm.Isend((self.view(send.source, low, high), self.byte), send.peer, TAG))

    def conflict(self, sent: _Part, received: _Part) -> bool:
        """Whether receiving `received` writes memory that sending `sent` reads."""
        assert isinstance(sent.action, Send)
        in_result = sent.action.source == "result" or self.in_place
        return in_result and sent.low < received.high and received.low < sent.high

    def combine(self, action: Action, low: int, high: int, target: np.ndarray) -> None:
        """result = own op received, or received op own; a Copy has been received into its place."""
        if not isinstance(action, Reduce):
            return
        own, result = self.arrays[action.own][low:high], self.arrays["result"][low:high]
        received = target.view(own.dtype)
        left, right = (own, received) if action.own_is_left else (received, own)
        cpu().allreduce.reduce(left, right, result, self.op, threads=1)
