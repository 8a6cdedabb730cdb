"""How a vector travels inside a node, by its size: the one place where that is decided.

A rule is a table of rows, each for vectors from some number of bytes on, and the choices it makes are the same on all
ranks because they depend on nothing but the table and the vector. `Rule.prior` derives a table from the time that a
cache line takes between two of the node's cores and from the caches; a tuner may put any other in its place.

The ways (csrc/allreduce/play.h): in the lines of the ring; staged in slots of shared memory with ordinary or streaming
stores; a single copy that the receiver makes out of the sender's memory. Arrays of `Engine.allocate` are read in place
whatever the row says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pyhpc.native import cpu

LINE_BYTES = 64
NEVER = 1 << 62
SLOT_BYTES = 256 * 1024  # of the engine's slots: the longest piece that is staged
SLOTS = 4


class Row(NamedTuple):
    """For vectors of at least `from_bytes`."""

    from_bytes: int
    way: Literal["staging", "single_copy"]
    piece_bytes: int
    strip_bytes: int = NEVER  # of the vector, played through all rounds at once
    streaming_slots: bool = False
    streaming_results: bool = False


@dataclass(frozen=True)
class Rule:
    """The table."""

    rows: tuple[Row, ...]  # ascending, the first from 0
    lines_bytes: int = 2048  # messages up to this travel in the lines of the ring
    network_bytes: int = 512 * 1024  # a piece of a message between nodes

    @staticmethod
    def prior(line_latency_seconds: float, single_copy: bool, caches: dict[str, int]) -> Rule:
        """The table for cores that are this far apart and, `single_copy`, may read each other's memory."""
        return Rule((Row(0, "staging", 32 * 1024), Row(1 << 20, "staging", 128 * 1024, 1 << 20)))

    def row(self, size_bytes: int) -> Row:
        """The row for a vector of this size."""
        return max(row for row in self.rows if row.from_bytes <= size_bytes)

    def choose(self, size_bytes: int, chunks: int, strips: bool) -> Any:
        """The native Choice for a vector of this size that a schedule cuts into `chunks`.

        `strips`: whether it may be played in strips; messages between nodes are long whole ones instead.
        """
        row = self.row(size_bytes)
        chunk = math.ceil(math.ceil(size_bytes / chunks) / LINE_BYTES) * LINE_BYTES
        step = math.ceil(min(row.strip_bytes, NEVER // 2) / chunks / LINE_BYTES) * LINE_BYTES
        count = max(1, math.ceil(chunk / step)) if strips else 1
        return cpu().allreduce.Choice(
            lines_bytes=self.lines_bytes,
            single_copy=row.way == "single_copy",
            piece_bytes=row.piece_bytes,
            step_bytes=step,
            strips=count,
            streaming_slots=row.streaming_slots,
            streaming_results=row.streaming_results,
            network_bytes=self.network_bytes,
        )
