"""The price of a schedule: seconds on a topology, with latency, bandwidth, reduction and contention.

Every rank has a clock. In a step

    load of a link   = bytes of all messages of the step that use it
    a message ends   = max(clock of sender, of receiver) + latency of its links + max over them (load / bandwidth)
    the receiver     takes its messages in order: each costs a fixed time and, if it is combined, a time a byte
    a rank goes on   when its messages have ended and its reductions are done

so that messages of one step share links fairly, and delays travel along the schedule. The step is compiled with Numba
and costs some hundred nanoseconds a message: a logarithmic schedule on 100 000 ranks takes seconds. Where an algorithm
says that its steps are alike (`Algorithm.runs`: the ring), a few of a run are priced and the rest go on at their pace.

Source: the model family of A. Alexandrov, M. Ionescu, K. Schauser and C. Scheiman, LogGP: incorporating long messages
into the LogP model, JPDC 44, 1997, with bottleneck sharing of links.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.schedules.messages import Step, step_of, walk
from pyhpc.kernels.schedules.schedule import Algorithm
from pyhpc.kernels.schedules.topology import Level, Topology

MOST_MESSAGES = 50_000_000  # that are looked at one by one; more take minutes
SETTLED = 4  # alike steps after which every rank goes at the slowest one's pace


def price(algorithm: Algorithm, ranks: int, sizes_bytes: Sequence[int], topology: Topology) -> list[float]:
    """Seconds of an all-reduce of each size, all ranks beginning together.

    Raises:
        InvalidArgument: more messages than can be priced, or fewer places in the topology than ranks.
    """
    looked_at = sum(SETTLED * ranks for _ in algorithm.runs(0, ranks)) if algorithm.runs else algorithm.messages(ranks)
    if looked_at > MOST_MESSAGES:
        raise InvalidArgument(f"{algorithm.name} sends {looked_at} messages on {ranks} ranks: too many to price")
    network = _Network(topology, ranks)
    clocks = np.zeros((len(sizes_bytes), ranks))
    chunk_bytes = np.array(sizes_bytes, float) / algorithm.chunks(ranks)
    for count, step in _runs(algorithm, ranks):
        routes = network.routes(step)
        for clock, bytes in zip(clocks, chunk_bytes, strict=True):
            exact = min(count, SETTLED)
            before = clock.max()
            for _ in range(exact):
                before = clock.max()
                network.advance(clock, step, routes, bytes)
            clock += (count - exact) * (clock.max() - before)
    return [float(clock.max()) for clock in clocks]


def _runs(algorithm: Algorithm, ranks: int) -> Iterator[tuple[int, Step]]:
    """How many alike steps follow each other, and the first of them."""
    if algorithm.runs is None:
        yield from ((1, step) for step in walk(algorithm, ranks))
    else:
        for count, actions in algorithm.runs(np.arange(ranks), ranks):
            yield count, step_of(actions, ranks, "run")


class _Routes(NamedTuple):
    """The way of each message of a step."""

    links: np.ndarray  # a row a message: the numbers of its links, −1 where it needs fewer
    seconds: np.ndarray  # latency


class _Network:
    """All links of a topology for so many ranks, numbered."""

    def __init__(self, topology: Topology, ranks: int) -> None:
        self.topology, self.ranks = topology, ranks
        rates: list[np.ndarray] = []
        self.tables: list[tuple[Level, int, int, int, int]] = []  # level, ranks in a unit, first link up, down, inside
        size, used = 1, 0
        for level in topology.levels:
            below, size = size, min(size * level.members, sys.maxsize)
            units = -(-ranks // size)
            up, down, inside = used, used + units * level.links, used + 2 * units * level.links
            used = inside + units
            rates.append(np.full(2 * units * level.links, level.link_bytes_per_second))
            rates.append(np.full(units, level.inside_bytes_per_second))
            self.tables.append((level, below, up, down, inside))
        if size < ranks:
            raise InvalidArgument(f"the topology has {size} places, and there are {ranks} ranks")
        self.rates = np.concatenate(rates)
        self.load = np.zeros(used)

    def routes(self, step: Step) -> _Routes:
        """The links of every message: up from the sender, inside where it turns round, down to the receiver."""
        source, target = step.sends.rank, step.receives.rank
        seconds, inside = np.zeros(len(source)), np.zeros(len(source), bool)
        columns = []
        for level, below, up, down, within in self.tables:
            size = min(below * level.members, sys.maxsize)
            ends = source // size, target // size
            turns = ~inside & (ends[0] == ends[1])
            inside |= turns
            columns.append(np.where(turns, within + ends[0], -1))
            for rank, unit, first in ((source, ends[0], up), (target, ends[1], down)):
                place = rank % size // below * level.links // level.members
                link = place if level.spread == "member" else sum(ends) % level.links
                columns.append(np.where(inside, -1, first + unit * level.links + link))
            seconds += np.where(turns, level.inside_seconds, 0) + np.where(inside, 0, 2 * level.link_seconds)
        return _Routes(np.stack(columns, axis=1), seconds)

    def advance(self, clock: np.ndarray, step: Step, routes: _Routes, chunk_bytes: float) -> None:
        """Let every rank's clock go on by the step."""
        size = (step.sends.last - step.sends.first) * chunk_bytes
        cost = self.topology.message_seconds + np.where(step.reduced, size * self.topology.reduced_byte_seconds, 0)
        _compiled()(clock, step.sends.rank, step.receives.rank, size, cost, *routes, self.rates, self.load)


@functools.cache
def _compiled() -> Callable[..., None]:
    """The inner loop."""
    import numba

    def advance(
        clock: Any, source: Any, target: Any, size: Any, cost: Any, links: Any, latency: Any, rates: Any, load: Any
    ) -> None:
        load[:] = 0
        for message in range(len(source)):
            for link in links[message]:
                if link >= 0:
                    load[link] += size[message]
        ready, ends = clock.copy(), clock.copy()
        for message in range(len(source)):
            begin = max(clock[source[message]], clock[target[message]])
            transfer = 0.0
            for link in links[message]:
                if link >= 0:
                    transfer = max(transfer, load[link] / rates[link])
            end = begin + latency[message] + transfer
            ends[source[message]] = max(ends[source[message]], end)
            ready[target[message]] = max(ready[target[message]], end) + cost[message]
        for rank in range(len(clock)):
            clock[rank] = max(ready[rank], ends[rank])

    compiled: Callable[..., None] = numba.njit(advance)
    return compiled
