"""The machine that a schedule is priced on: levels of units (NUMA domain, socket, node, leaf switch …) and their links.

A rank is part of one unit of each level; ranks fill the units in order. A message turns round in the smallest unit that
holds both ranks: it goes through the memory or switch inside that unit, and on each side through a link of every
smaller unit it leaves or enters. Links carry both directions at full rate and are shared by all messages on them.

A topology is data: `load` reads it from TOML or JSON with the names of the fields below.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pyhpc.errors import InvalidArgument


@dataclass(frozen=True)
class Level:
    """The units of one level."""

    name: str
    members: int  # units of the level below in one of these; ranks in the first level
    links: int = 1  # out of the unit: network cards of a node, uplinks of a leaf switch
    link_bytes_per_second: float = math.inf  # of one link, each way
    link_seconds: float = 0.0  # latency of a link
    inside_bytes_per_second: float = math.inf  # of all messages that turn round in the unit: memory
    inside_seconds: float = 0.0  # latency of turning round
    spread: str = "member"  # which link: "member": by the member's place; "pair": by the sum of both units' numbers


@dataclass(frozen=True)
class Topology:
    """Levels, the innermost first; the last holds all ranks. What a rank itself costs."""

    levels: tuple[Level, ...]
    message_seconds: float = 0.0  # of a receiver for each message
    reduced_byte_seconds: float = 0.0

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a unit of the level "node"; 1 where there is none."""
        size = 1
        for level in self.levels:
            size *= level.members
            if level.name == "node":
                return size
        return 1


def of(table: Mapping[str, Any]) -> Topology:
    """A topology from plain data.

    Raises:
        InvalidArgument: an unknown or missing name, or a value that cannot be.
    """
    rest = {name: value for name, value in table.items() if name != "levels"}
    try:
        topology = Topology(tuple(Level(**level) for level in table.get("levels", ())), **rest)
    except TypeError as error:
        raise InvalidArgument(f"topology: {str(error).replace('__init__()', 'it')}") from None
    if not topology.levels:
        raise InvalidArgument("topology: there must be at least one [[levels]]")
    _check(topology)
    for level in topology.levels:
        _check(level)
        if level.spread not in ("member", "pair"):
            raise InvalidArgument(f"topology: spread is {level.spread!r}; it must be member or pair")
    return topology


def _check(part: Topology | Level) -> None:
    """Counts are whole and at least 1, rates more than 0, times at least 0."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.type == "int":
            right = isinstance(value, int) and value >= 1
        elif field.type == "float":
            right = isinstance(value, int | float) and (value > 0 if "per_second" in field.name else value >= 0)
        else:
            continue
        if not right:
            raise InvalidArgument(f"topology: {field.name} is {value!r}")


def load(file: Path) -> Topology:
    """A topology from a .toml or .json file.

    Raises:
        InvalidArgument: a file that cannot be read or is no topology.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = file.read_text()
        return of(json.loads(text) if file.suffix == ".json" else tomllib.loads(text))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: {error}") from None


# Two sockets of two NUMA domains with 12 cores each, four cards of 200 Gbit/s; 32 nodes on a leaf switch with half as
# many uplinks of 400 Gbit/s: round numbers of a present-day cluster, not measured.
CLUSTER = Topology(
    (
        Level("numa", 12, 1, 50e9, 100e-9, 100e9, 300e-9),
        Level("socket", 2, 1, 60e9, 100e-9, 100e9, 100e-9),
        Level("node", 2, 4, 25e9, 600e-9, 60e9, 200e-9),
        Level("leaf", 32, 16, 50e9, 200e-9, spread="pair"),
        Level("spine", sys.maxsize),
    ),
    message_seconds=300e-9,
    reduced_byte_seconds=1 / 10e9,
)
