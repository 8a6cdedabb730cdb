"""Expressions over the ranks' contributions, as numbers: 0 … p−1 are the leaves, a node is (left op right).

Whole arrays of nodes are made at once. A node knows exactly which ranks contribute to it: as an interval of ranks
(around the end too) wherever its parts are adjacent intervals, as is nearly always so, otherwise as a set of bits.
"""

from __future__ import annotations

import numpy as np


class Twice(ValueError):
    """A contribution that would be counted twice; the argument is the place of the pair."""


class Expressions:
    """All expressions that have come up."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.count = ranks, ranks
        self._start = np.arange(ranks, dtype=np.int32)  # of the interval; −1: the members are in `_bits`
        self._length = np.ones(ranks, np.int32)
        self._in_order = np.ones(ranks, bool)  # the contributions are combined in rank order
        self._bits: dict[int, int] = {}
        self.next_step()

    def next_step(self) -> None:
        """Forget which nodes are equal: from here on the same pair makes a new node."""
        self._keys = np.empty(0, np.int64)
        self._numbers = np.empty(0, np.int64)

    def nodes(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The nodes of pairs of expressions; the same pair in the same step is the same node.

        Raises:
            Twice: the two parts share a contribution.
        """
        if not len(left):
            return left
        # Chunks next to each other mostly hold the same: one of a run stands for all.
        pairs = (left.astype(np.int64) << 32) | right
        runs = np.concatenate([[0], np.flatnonzero(np.diff(pairs)) + 1])
        keys, first, inverse = np.unique(pairs[runs], return_index=True, return_inverse=True)
        first = runs[first]
        place = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        inside = place < len(self._keys)
        known[inside] = self._keys[place[inside]] == keys[inside]
        numbers = np.empty(len(keys), np.int64)
        numbers[known] = self._numbers[place[known]]
        fresh = np.flatnonzero(~known)
        numbers[fresh] = self._make(left[first[fresh]], right[first[fresh]], first[fresh])
        merged = np.concatenate([self._keys, keys[fresh]])
        order = np.argsort(merged)
        self._keys, self._numbers = merged[order], np.concatenate([self._numbers, numbers[fresh]])[order]
        return np.repeat(numbers[inverse], np.diff(np.append(runs, len(pairs))))

    def _make(self, left: np.ndarray, right: np.ndarray, places: np.ndarray) -> np.ndarray:
        numbers = np.arange(self.count, self.count + len(left))
        self.count += len(left)
        while self.count > len(self._start):
            self._start, self._length = np.tile(self._start, 2), np.tile(self._length, 2)
            self._in_order = np.tile(self._in_order, 2)
        starts, lengths = (self._start[left], self._start[right]), (self._length[left], self._length[right])
        follows = [(a + n) % self.ranks == b for a, b, n in ((*starts, lengths[0]), (*starts[::-1], lengths[1]))]
        interval = (starts[0] >= 0) & (starts[1] >= 0) & (follows[0] | follows[1])
        interval &= lengths[0] + lengths[1] <= self.ranks
        self._start[numbers] = np.where(interval, np.where(follows[0], *starts), -1)
        self._length[numbers] = lengths[0] + lengths[1]
        ordered = self._in_order[left] & self._in_order[right]
        self._in_order[numbers] = ordered & interval & (starts[0] + lengths[0] == starts[1])
        for k in np.flatnonzero(~interval):
            a, b = self.members(int(left[k])), self.members(int(right[k]))
            if a & b:
                raise Twice(int(places[k]))
            self._bits[int(numbers[k])] = a | b
        return numbers

    def members(self, number: int) -> int:
        """The ranks that contribute, as bits."""
        if number in self._bits:
            return self._bits[number]
        ones = ((1 << int(self._length[number])) - 1) << int(self._start[number])
        return (ones | ones >> self.ranks) & ((1 << self.ranks) - 1)

    def complete(self, numbers: np.ndarray) -> np.ndarray:
        """Whether every rank contributes; being counted twice is ruled out by construction."""
        complete: np.ndarray = self._length[numbers] == self.ranks
        return complete

    def in_rank_order(self, numbers: np.ndarray) -> np.ndarray:
        """Whether the contributions are combined in rank order."""
        ordered: np.ndarray = self._in_order[numbers]
        return ordered
