"""What "auto" plays where no table of measurements says it: the schedule with the lowest price.

    price = messages · time of one + bytes · time of one + bytes reduced · time of one        on the critical path

Messages inside a node and those between nodes have a model each (`Algorithm.inside` tells them apart). The ranks of a
node that send to other nodes at once share its network card: each has its part of the rate and waits for its turn. Only
the ratios decide; they are round numbers of a present-day cluster.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pyhpc.kernels.schedules.hierarchical import hierarchical
from pyhpc.kernels.schedules.schedule import Algorithm, Model, Path, algorithms

# Ranks that share memory: a message is a few cache lines (some 0.2 us), its copy and the reduction are one core's, and
# no link is shared.
SHARED_MEMORY = Model(0.2e-6, 1 / 10e9, 1 / 10e9)
NETWORK = Model(2e-6, 1 / 10e9, 1 / 10e9)  # 100 Gbit/s
_TURN_SECONDS = 0.2e-6  # between two messages of a card

_IN_A_NODE = ("recursive_doubling", "direct", "halving_doubling")  # the first of equals has the fewest steps
_BETWEEN_NODES = ("recursive_doubling", "halving_doubling", "ring")
_ALONG_NODES = ("ring", "segmented_ring")  # one rank of a node sends to another node


def ranks_per_node(nodes: Sequence[int]) -> int:
    """The largest n for which the ranks k·n … k·n + n − 1 are on one node for every k; `nodes`: where each rank is."""
    ranks = len(nodes)
    fits = (n for n in range(ranks, 0, -1) if all(nodes[rank] == nodes[rank - rank % n] for rank in range(ranks)))
    return next(fits)


@functools.lru_cache(maxsize=4096)
def cheapest(ranks: int, bytes: int, in_node: int = 1) -> Algorithm:
    """The algorithm with the lowest price where so many successive ranks share a node."""
    if in_node >= ranks:
        among = [algorithms()[name] for name in _IN_A_NODE]
        return min(among, key=lambda a: SHARED_MEMORY.seconds(a.path(ranks), bytes))

    def price(candidate: tuple[Algorithm, int]) -> tuple[float, float]:
        algorithm, senders = candidate
        return _seconds(algorithm, ranks, bytes, senders), algorithm.path(ranks).messages

    return min(_candidates(in_node), key=price)[0]


def _candidates(in_node: int) -> Iterator[tuple[Algorithm, int]]:
    """Algorithms, and how many ranks of a node send to other nodes at once."""
    for algorithm in algorithms().values():
        if algorithm.inside is None:
            yield algorithm, 1 if algorithm.name in _ALONG_NODES else in_node
    for name in _BETWEEN_NODES if in_node > 1 else ():
        for leaders in (1, in_node):
            yield hierarchical(in_node, leaders, algorithms()[name]), leaders


def _seconds(algorithm: Algorithm, ranks: int, bytes: int, senders: int) -> float:
    card = replace(
        NETWORK,
        seconds_per_message=NETWORK.seconds_per_message + (senders - 1) * _TURN_SECONDS,
        seconds_per_byte=NETWORK.seconds_per_byte * senders,
    )
    path, inside = algorithm.path(ranks), algorithm.inside(ranks) if algorithm.inside else Path(0, 0, 0)
    return card.seconds(path, bytes) - card.seconds(inside, bytes) + SHARED_MEMORY.seconds(inside, bytes)
