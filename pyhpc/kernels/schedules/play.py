"""Execution of a schedule with MPI messages between the ranks' host arrays.

A message is at most a segment long. Reductions are received segment by segment into a small scratch that stays in
cache, so that combining one segment overlaps the transfer of the next ones and no count ever reaches 2^31. Elements
travel as bytes (MPI knows neither bfloat16 nor float16) and are combined by the native reduction.

Why it cannot deadlock: all sends of a round are started before the first wait, and receives are waited for in order of
the segment's index, every Reduce having the same number of segments posted ahead. Waiting for one's own send of segment
k before overwriting it therefore depends on segments ≤ k of the other ranks only.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyhpc.comm import Channel, mpi
from pyhpc.kernels.schedules.schedule import Action, Algorithm, Copy, Reduce, Round, Send, bounds
from pyhpc.native import cpu

# Long enough that a message's fixed cost (a few microseconds) is small beside its transfer (100 us), short enough that
# the segments in flight stay in the second-level cache.
SEGMENT_BYTES = 512 * 1024
AHEAD = 3  # receives posted ahead for every Reduce
TAG = 1


@functools.lru_cache(maxsize=256)
def _rounds(algorithm: Algorithm, rank: int, ranks: int) -> tuple[Round, ...]:
    return algorithm.rounds(rank, ranks)


def play(channel: Channel, algorithm: Algorithm, x: np.ndarray, out: np.ndarray, op: str) -> None:
    """out = x₀ op x₁ op … over the ranks of `channel`, in the order that the schedule of `algorithm` states.

    `x` and `out` are contiguous, one-dimensional, of one dtype and length, and either the same memory or disjoint.
    Collective.
    """
    if channel.ranks == 1:
        if out.ctypes.data != x.ctypes.data:
            out[:] = x
        return
    player = _Player(channel, algorithm, x, out, op)
    for actions in _rounds(algorithm, channel.rank, channel.ranks):
        player.round(actions)


@dataclass
class _Receive:
    """One segment that is being received."""

    action: Reduce | Copy
    low: int  # elements
    high: int
    index: int  # of the segment within its action
    target: np.ndarray  # bytes


@dataclass
class _Sent:
    """One segment that is being sent, from element `low` on."""

    low: int
    request: Any


class _Player:
    def __init__(self, channel: Channel, algorithm: Algorithm, x: np.ndarray, out: np.ndarray, op: str) -> None:
        self.channel, self.comm, self.op = channel, channel.comm, op
        self.arrays = {"input": x, "result": out}
        self.bytes = {"input": x.view(np.uint8), "result": out.view(np.uint8)}
        self.in_place = x.ctypes.data == out.ctypes.data
        self.itemsize = x.dtype.itemsize
        self.edges = bounds(x.size, algorithm.chunks(channel.ranks), max(1, 64 // self.itemsize))
        self.segment = SEGMENT_BYTES // self.itemsize
        self.reduce: Callable[..., Any] = cpu().allreduce.reduce
        self.byte = mpi().BYTE

    def round(self, actions: Round) -> None:
        """One round; a round of at most one short message each way needs no overlap."""
        sends = [action for action in actions if isinstance(action, Send) and self.length(action)]
        receives = [action for action in actions if not isinstance(action, Send) and self.length(action)]
        short = all(self.length(action) <= self.segment for action in (*sends, *receives))
        if short and len(sends) <= 1 and len(receives) <= 1:
            self.exchange(sends, receives)
        else:
            self.stream(sends, receives)

    def range(self, action: Action) -> tuple[int, int]:
        return self.edges[action.chunks[0]], self.edges[action.chunks[1]]

    def length(self, action: Action) -> int:
        low, high = self.range(action)
        return high - low

    def view(self, buffer: str, low: int, high: int) -> np.ndarray:
        return self.bytes[buffer][low * self.itemsize : high * self.itemsize]

    def exchange(self, sends: list[Send], receives: list[Reduce | Copy]) -> None:
        """At most one short message out and one in, in one MPI call."""
        outgoing = [(self.view(send.source, *self.range(send)), self.byte) for send in sends]
        incoming = []
        for action in receives:
            low, high = self.range(action)
            scratch = self.channel.scratch(SEGMENT_BYTES)[: (high - low) * self.itemsize]
            target = self.view("result", low, high) if isinstance(action, Copy) else scratch
            incoming.append(_Receive(action, low, high, 0, target))
        if outgoing and incoming:
            into, peer = (incoming[0].target, self.byte), incoming[0].action.peer
            self.comm.Sendrecv(outgoing[0], sends[0].peer, TAG, into, peer, TAG)
        elif outgoing:
            self.comm.Send(outgoing[0], sends[0].peer, TAG)
        elif incoming:
            self.comm.Recv((incoming[0].target, self.byte), incoming[0].action.peer, TAG)
        for receive in incoming:
            self.combine(receive)

    def stream(self, sends: list[Send], receives: list[Reduce | Copy]) -> None:
        """Any number of messages of any length: see the head of this file."""
        segments = self.receive_segments(receives)
        posted = {id(s): self.post(s) for s in segments if s.index < AHEAD or isinstance(s.action, Copy)}
        by_index = {(id(s.action), s.index): s for s in segments}
        outgoing = {send: deque(self.start(send, low, high) for low, high in self.segments(send)) for send in sends}
        overwritten = {action: [outgoing[send] for send in sends if self.conflict(send, action)] for action in receives}
        for receive in segments:
            posted.pop(id(receive)).Wait()
            # The memory that is written now may still be on its way to another rank.
            for queue in overwritten[receive.action]:
                while queue and queue[0].low < receive.high:
                    queue.popleft().request.Wait()
            self.combine(receive)
            following = by_index.get((id(receive.action), receive.index + AHEAD))
            if following is not None and id(following) not in posted:
                posted[id(following)] = self.post(following)
        for queue in outgoing.values():
            for sent in queue:
                sent.request.Wait()

    def conflict(self, send: Send, action: Reduce | Copy) -> bool:
        """Whether `action` writes memory that `send` reads."""
        in_result = send.source == "result" or self.in_place
        return in_result and send.chunks[0] < action.chunks[1] and action.chunks[0] < send.chunks[1]

    def segments(self, action: Action) -> Iterator[tuple[int, int]]:
        start, stop = self.range(action)
        return ((low, min(stop, low + self.segment)) for low in range(start, stop, self.segment))

    def receive_segments(self, receives: list[Reduce | Copy]) -> list[_Receive]:
        """All segments to receive, in order of their index, each with the memory it is received into."""
        scratch = self.channel.scratch(len(receives) * AHEAD * SEGMENT_BYTES)
        found = []
        for number, action in enumerate(receives):
            for index, (low, high) in enumerate(self.segments(action)):
                slot = (number * AHEAD + index % AHEAD) * SEGMENT_BYTES
                memory = scratch[slot : slot + (high - low) * self.itemsize]
                target = self.view("result", low, high) if isinstance(action, Copy) else memory
                found.append(_Receive(action, low, high, index, target))
        return sorted(found, key=lambda receive: receive.index)

    def post(self, receive: _Receive) -> Any:
        return self.comm.Irecv((receive.target, self.byte), receive.action.peer, TAG)

    def start(self, send: Send, low: int, high: int) -> _Sent:
        return _Sent(low, self.comm.Isend((self.view(send.source, low, high), self.byte), send.peer, TAG))

    def combine(self, receive: _Receive) -> None:
        """result = own op received, or received op own."""
        action = receive.action
        if isinstance(action, Copy):
            return
        own = self.arrays[action.own][receive.low : receive.high]
        result = self.arrays["result"][receive.low : receive.high]
        received = receive.target.view(own.dtype)
        left, right = (own, received) if action.own_is_left else (received, own)
        self.reduce(left, right, result, self.op, threads=1)
