"""How a vector is combined inside a node, by its size: the one place where that is decided.

A `Table` has a `Rule` for each band of line latencies (the time that a cache line takes between two of the node's
cores), and a rule a row for vectors from some number of bytes on. `shipped` is the table for machines nobody has tuned;
`pyhpc tune allreduce` measures one and writes it as JSON, and PYHPC_ALLREDUCE_RULE names the file that is taken
instead. Ranks follow the table of their first one, so that they all choose alike.

The ways (csrc/allreduce/play.h): in the lines of the ring; staged in slots of shared memory with ordinary or streaming
stores; a single copy that the receiver makes out of the sender's memory. Arrays of `Engine.allocate` are read in place
whatever the row says.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.schedules.schedule import algorithms
from pyhpc.native import cpu

FILE_VARIABLE = "PYHPC_ALLREDUCE_RULE"
LINE_BYTES = 64
NEVER = 1 << 62
SLOT_BYTES = 256 * 1024  # of the engine's slots: the longest piece that is staged
SLOTS = 4
MOST_LINES_BYTES = 3584  # of the engine's rings: the longest message that travels in them
_NEAR_SECONDS = 150e-9  # between the classes that were seen: 35 to 72 ns, and 255 to 300 ns


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvalidArgument(f"all-reduce rule: {sentence}")


@dataclass(frozen=True)
class Row:
    """For vectors of at least `from_bytes`."""

    from_bytes: int
    way: Literal["staging", "single_copy"]
    piece_bytes: int
    strip_bytes: int | None = None  # of the vector, played through all rounds at once
    streaming_slots: bool = False
    streaming_results: bool = False

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # read by pydantic, of the class

    def __post_init__(self) -> None:
        _require(0 < self.piece_bytes <= SLOT_BYTES, f"piece_bytes is {self.piece_bytes}; 1 to {SLOT_BYTES} can be")
        _require(self.strip_bytes is None or self.strip_bytes > 0, f"strip_bytes is {self.strip_bytes}")


@dataclass(frozen=True)
class Rule:
    """For one node."""

    rows: tuple[Row, ...]  # ascending, the first from 0
    lines_bytes: int = 384  # messages up to this travel in the lines of the ring; longer ones are faster in a slot
    network_bytes: int = 512 * 1024  # a piece of a message between nodes
    windows_bytes: int = 8 * 1024  # vectors from this size on, if shared by all ranks, are combined in one pass

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        starts = [row.from_bytes for row in self.rows]
        _require(starts[:1] == [0] and starts == sorted(set(starts)), f"its rows begin at {starts}; first 0, then more")
        _require(0 <= self.lines_bytes <= MOST_LINES_BYTES, f"lines_bytes is {self.lines_bytes}; at most 3584 can be")
        _require(self.network_bytes > 0, f"network_bytes is {self.network_bytes}")

    def row(self, size_bytes: int) -> Row:
        """The row for a vector of this size."""
        return next(row for row in reversed(self.rows) if row.from_bytes <= size_bytes)

    def choose(self, size_bytes: int, chunks: int, strips: bool) -> Any:
        """The native Choice for a vector of this size that a schedule cuts into `chunks`.

        `strips`: whether it may be played in strips; messages between nodes are long whole ones instead.
        """
        row = self.row(size_bytes)
        chunk = math.ceil(math.ceil(size_bytes / chunks) / LINE_BYTES) * LINE_BYTES
        step = math.ceil((row.strip_bytes or NEVER // 2) / chunks / LINE_BYTES) * LINE_BYTES
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


@dataclass(frozen=True)
class Band:
    """The rule for nodes whose cores are less than this far apart."""

    below_seconds: float | None  # None: however far
    source: str  # where it was measured
    rule: Rule

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012


@dataclass(frozen=True)
class Played:
    """The schedule that "auto" plays on one node from so many ranks and bytes on."""

    from_ranks: int
    from_bytes: int
    algorithm: str | None  # None: what the model prices lowest
    crowded: bool = False  # for nodes with more ranks than cores

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        _require(self.algorithm in (None, *algorithms()), f"{self.algorithm!r} is none of {', '.join(algorithms())}")


@dataclass(frozen=True)
class Table:
    """Everything that is decided by measurements."""

    bands: tuple[Band, ...]  # ascending, the last one for all that are farther
    played: tuple[Played, ...] = ()  # in any order; what none of them is for is played as the model has it

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        edges = [math.inf if band.below_seconds is None else band.below_seconds for band in self.bands]
        _require(
            edges[-1:] == [math.inf] and edges == sorted(set(edges)),
            f"its bands end at {edges} seconds; they must ascend, and the last one end at null",
        )

    def band(self, line_latency_seconds: float) -> Band:
        """The band that this latency lies in."""
        return next(b for b in self.bands if b.below_seconds is None or line_latency_seconds < b.below_seconds)

    def rule(self, line_latency_seconds: float, single_copy: bool) -> Rule:
        """For cores that are this far apart and, `single_copy`, may read each other's memory."""
        rule = self.band(line_latency_seconds).rule
        return rule if single_copy else replace(rule, rows=tuple(replace(row, way="staging") for row in rule.rows))

    def algorithm(self, ranks: int, size_bytes: int, crowded: bool) -> str | None:
        """What is played on one node, None: what the model prices lowest."""
        rows = [p for p in self.played if p.crowded == crowded and p.from_ranks <= ranks and p.from_bytes <= size_bytes]
        return max(rows, key=lambda row: (row.from_ranks, row.from_bytes)).algorithm if rows else None

    def json(self) -> str:
        """As a file holds it."""
        from pydantic import TypeAdapter

        return TypeAdapter(Table).dump_json(self, indent=1).decode() + "\n"

    @staticmethod
    def parse(text: str, file: str) -> Table:
        """Of the text of a file; raises InvalidArgument with the place and the mistake."""
        from pydantic import TypeAdapter, ValidationError

        try:
            table: Table = TypeAdapter(Table).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            mistake = first["msg"].removeprefix("Value error, all-reduce rule: ")
            raise InvalidArgument(f"all-reduce rule {file}{where and ', '}{where}: {mistake}") from None
        return table


def shipped() -> Table:
    """For machines that nobody has tuned.

    Near cores share a cache, so slots are written and read there. Between far ones a line is fetched from memory faster
    than from the other core's cache: slots are written past the caches. A strip and its slots stay in the second-level
    cache. Results are written past the caches when vectors are several times that cache; the receiver then had better
    copy once, straight from the sender's memory.
    """
    strip = max(64 << 10, 1 << ((cpu().cache_sizes()["l2"] or 1 << 20) * 4 // 5).bit_length() - 1)
    near = (
        Row(0, "staging", 64 << 10),
        Row(strip, "staging", 64 << 10, strip // 2),
        Row(4 * strip, "single_copy", 128 << 10, strip, streaming_results=True),
    )
    far = (
        Row(0, "staging", 64 << 10),
        Row(32 << 10, "staging", 64 << 10, streaming_slots=True),
        Row(strip, "staging", 64 << 10, strip, streaming_slots=True),
        Row(4 * strip, "staging", 128 << 10, strip, streaming_slots=True, streaming_results=True),
        Row(max(32 << 20, 8 * strip), "single_copy", 128 << 10, strip, streaming_slots=True, streaming_results=True),
    )
    return Table(
        (
            Band(_NEAR_SECONDS, "two Ice Lake cores 35 to 70 ns apart", Rule(near)),
            Band(None, "two Zen 5 cores 260 ns apart, a prototype; never timed with this engine", Rule(far)),
        ),
        (
            # Two Ice Lake cores 60 ns apart. The model is for cores that share less.
            Played(2, 0, "recursive_doubling"),
            Played(2, 64 << 10, "direct"),
            Played(3, 0, None),
            # Fewer steps, as each costs a change of the core's process: 3, 4 and 8 ranks on those two cores.
            Played(3, 0, "recursive_multiplying", True),
            Played(3, 32 << 10, "halving_doubling", True),
        ),
    )


def table() -> Table:
    """That of the file which PYHPC_ALLREDUCE_RULE names, or the shipped one.

    Raises:
        InvalidArgument: the file cannot be read or is no table.
    """
    path = os.environ.get(FILE_VARIABLE)
    if path is None:
        return shipped()
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InvalidArgument(f"{FILE_VARIABLE} is {path!r}, which cannot be read: {error.strerror}") from None
    return Table.parse(text, path)
