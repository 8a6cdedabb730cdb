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
_FAR_SECONDS = 150e-9  # between the classes that were seen: 35 to 72 ns, and 255 to 300 ns


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
    lines_bytes: int = 384  # messages up to this travel in the lines of the ring; longer ones are faster in a slot
    network_bytes: int = 512 * 1024  # a piece of a message between nodes
    windows_bytes: int = 8 * 1024  # vectors from this size on, if shared by all ranks, are combined in one pass

    @staticmethod
    def prior(line_latency_seconds: float, single_copy: bool, caches: dict[str, int]) -> Rule:
        """The table for cores that are this far apart and, `single_copy`, may read each other's memory.

        Near cores share a cache, so slots are written and read there. Between far ones a line is fetched from memory
        faster than from the other core's cache: slots are written past the caches. A strip and its slots stay in the
        second-level cache. Results are written past the caches when vectors are several times that cache; the receiver
        then had better copy once, straight from the sender's memory.

        Found on two Ice Lake cores 35 to 70 ns apart; the far rows on two Zen 5 cores 260 ns apart.
        """
        cache = caches["l2"] or 1 << 20
        strip = 1 << (cache * 4 // 5).bit_length() - 1
        copied: Literal["staging", "single_copy"] = "single_copy" if single_copy else "staging"
        if line_latency_seconds < _FAR_SECONDS:
            return Rule(
                (
                    Row(0, "staging", 64 << 10),
                    Row(strip, "staging", 64 << 10, strip // 2),
                    Row(4 * strip, copied, 128 << 10, strip, streaming_results=True),
                )
            )
        return Rule(
            (
                Row(0, "staging", 64 << 10),
                Row(32 << 10, "staging", 64 << 10, streaming_slots=True),
                Row(strip, "staging", 64 << 10, strip, streaming_slots=True),
                Row(4 * strip, "staging", 128 << 10, strip, streaming_slots=True, streaming_results=True),
                Row(32 << 20, copied, 128 << 10, strip, streaming_slots=True, streaming_results=True),
            )
        )

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
            step_bytes=step if count > 1 else NEVER,
            strips=count,
            streaming_slots=row.streaming_slots,
            streaming_results=row.streaming_results,
            network_bytes=self.network_bytes,
        )
