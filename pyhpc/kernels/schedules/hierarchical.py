"""Hierarchical: combine inside the nodes, all-reduce between the nodes on several lanes, spread inside the nodes.

    inside:   lane q of the vector (1/l of it) comes together at the node's owner of lane q
    between:  the owners of lane q all-reduce it among the N nodes: l all-reduces of 1/l of the vector, side by side
    inside:   everybody copies lane q from its owner

With one lane (single leader) a node has one rank on the network: few messages, for short vectors. With as many lanes as
ranks in a node (multi-leader) every rank takes its share of combining and of the node's network cards. Ranks are
numbered node by node; the last node may have fewer, and then some of its ranks own several lanes. Any number of ranks.
Where the algorithm between the nodes combines in rank order, so does this.

Source: M. Bayatpour, S. Chakraborty, H. Subramoni, X. Lu and D. K. Panda, Scalable reduction collectives with data
partitioning-based multi-leader design, SC 2017; J. L. Träff and S. Hunold, Decomposing MPI collectives for exploiting
multi-lane communication, CLUSTER 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pyhpc.kernels.schedules import halving_doubling
from pyhpc.kernels.schedules.fan_in import fan_in_outwards
from pyhpc.kernels.schedules.schedule import (
    NOBODY,
    Action,
    Algorithm,
    Chunks,
    Copy,
    Index,
    Path,
    Reduce,
    Send,
    Steps,
    where,
)


def hierarchical(
    ranks_per_node: int, leaders: int | None = None, between: Algorithm = halving_doubling.ALGORITHM
) -> Algorithm:
    """The algorithm for nodes of this many ranks.

    Args:
        ranks_per_node: ranks k·ranks_per_node … of the same node follow each other; the last node may have fewer.
        leaders: how many ranks of a node talk to other nodes, at most ranks_per_node; default: all.
        between: the algorithm between the nodes.
    """
    lanes = ranks_per_node if leaders is None else leaders
    if not 1 <= lanes <= ranks_per_node:
        raise ValueError(f"{lanes} leaders in a node of {ranks_per_node} ranks: there must be 1 … {ranks_per_node}")

    def world(ranks: int) -> _World:
        return _World(ranks, min(ranks_per_node, ranks), min(lanes, ranks), between)

    return Algorithm(
        name="hierarchical",
        summary="combine in the node, all-reduce between nodes on several lanes, spread in the node (SC 2017)",
        chunks=lambda ranks: world(ranks).lanes * world(ranks).chunks,
        steps=lambda rank, ranks: world(ranks).steps(rank),
        path=lambda ranks: world(ranks).inside() + world(ranks).outside(),
        inside=lambda ranks: world(ranks).inside(),
        messages=lambda ranks: world(ranks).messages(),
        volume=lambda ranks: world(ranks).volume(),
    )


@dataclass(frozen=True)
class _World:
    ranks: int
    ranks_per_node: int
    lanes: int
    between: Algorithm

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.ranks_per_node)

    @property
    def in_last_node(self) -> int:
        return self.ranks - (self.nodes - 1) * self.ranks_per_node

    @property
    def chunks(self) -> int:
        """Chunks of a lane."""
        return self.between.chunks(self.nodes)

    def size(self, node: Index) -> Index:
        """Ranks in a node."""
        return where(node == self.nodes - 1, self.in_last_node, self.ranks_per_node)

    def owner(self, lane: Index, node: Index) -> Index:
        """The rank of a node that owns a lane: evenly spread over the node."""
        return node * self.ranks_per_node + lane * self.size(node) // self.lanes

    def lane(self, lane: Index) -> Chunks:
        return lane * self.chunks, (lane + 1) * self.chunks

    def owned(self, rank: Index) -> Iterator[tuple[Index, Any]]:
        """The lanes that a rank owns, each with whether it does: as many as any rank owns."""
        node = rank // self.ranks_per_node
        size, local = self.size(node), rank % self.ranks_per_node
        first, end = -(-local * self.lanes // size), -(-(local + 1) * self.lanes // size)
        for number in range(-(-self.lanes // self.in_last_node)):
            yield first + number, first + number < end

    def steps(self, rank: Index) -> Steps:
        if self.ranks_per_node > 1:
            yield tuple(self.gather(rank))
        if self.nodes > 1:
            lanes = [self.exchange(rank, lane, owns) for lane, owns in self.owned(rank)]
            for actions in zip(*lanes, strict=True):
                yield tuple(action for lane in actions for action in lane)
        if self.ranks_per_node > 1:
            yield tuple(self.spread(rank))

    def gather(self, rank: Index) -> Iterator[Action]:
        """Every lane to its owner in the node, who combines in rank order."""
        node, local = rank // self.ranks_per_node, rank % self.ranks_per_node
        for lane in range(self.lanes):
            owner = self.owner(lane, node)
            yield Send(where(owner != rank, owner, NOBODY), self.lane(lane), "input")
        begin, size = node * self.ranks_per_node, self.size(node)
        for lane, owns in self.owned(rank):
            place = where(owns, local, NOBODY)

            def peer(j: Index) -> Index:
                return where(j < size, begin + j, NOBODY)

            yield from fan_in_outwards(place, self.ranks_per_node, peer, self.lane(lane), "input")

    def exchange(self, rank: Index, lane: Index, owns: Any) -> Steps:
        """The all-reduce of one lane between the nodes."""
        node = rank // self.ranks_per_node
        held = where(self.size(node) > 1, "result", "input")  # after the gathering

        def on_lane(action: Action) -> Action:
            def owner(peer: Index) -> Index:
                return where(owns & (peer != NOBODY), self.owner(lane, peer), NOBODY)

            first, last = (lane * self.chunks + edge for edge in action.chunks)
            moved = replace(action, peer=owner(action.peer), chunks=(first, last))
            if isinstance(moved, Send):
                return replace(moved, source=where(moved.source == "input", held, "result"))
            if isinstance(moved, Reduce):
                own = where(moved.own == "input", held, "result")
                return replace(moved, own=own, before=tuple(map(owner, moved.before)))
            return moved

        for actions in self.between.steps(node, self.nodes):
            yield tuple(map(on_lane, actions))

    def spread(self, rank: Index) -> Iterator[Action]:
        """Every lane from its owner to the whole node."""
        node = rank // self.ranks_per_node
        begin, size = node * self.ranks_per_node, self.size(node)
        for lane, owns in self.owned(rank):
            for shift in range(1, self.ranks_per_node):
                other = begin + (rank - begin + shift) % size
                yield Send(where(owns & (shift < size), other, NOBODY), self.lane(lane), "result")
        for lane in range(self.lanes):
            owner = self.owner(lane, node)
            yield Copy(where(owner != rank, owner, NOBODY), self.lane(lane))

    def inside(self) -> Path:
        """The busiest owner's p/N−1 messages a lane each way."""
        sizes = {self.in_last_node} | ({self.ranks_per_node} if self.nodes > 1 else set())
        each_way = max(
            max(-(-self.lanes // size) * (size - 1), self.lanes if size > self.lanes else 0) for size in sizes
        )
        reduced = max(-(-self.lanes // size) * (size - 1) for size in sizes)
        return Path(2 * each_way, 2 * each_way / self.lanes, reduced / self.lanes)

    def outside(self) -> Path:
        """The path between the nodes once for each lane of the busiest owner."""
        path, owned = self.between.path(self.nodes), -(-self.lanes // self.in_last_node)
        return Path(path.messages * owned, path.volume * owned / self.lanes, path.reduced * owned / self.lanes)

    def messages(self) -> int:
        """Inside, all but the owner send each lane, and get it back."""
        return self.lanes * (2 * (self.ranks - self.nodes) + self.between.messages(self.nodes))

    def volume(self) -> float:
        return 2 * (self.ranks - self.nodes) + self.between.volume(self.nodes)


ALGORITHM = hierarchical(ranks_per_node=8)
