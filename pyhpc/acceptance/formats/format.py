"""What a format is: one file of this folder that defines `FORMAT`; the folder listing is the registry.

A format shows what the report says and computes no verdict.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from pyhpc.acceptance.config import near
from pyhpc.acceptance.report import Report
from pyhpc.errors import ConfigError
from pyhpc.registry import members


@dataclass(frozen=True)
class Format:
    """One way to write a report."""

    name: str
    file: str  # its name in the run folder
    render: Callable[[Report], str]


@functools.cache
def formats() -> dict[str, Format]:
    """Every format of this folder by name."""
    return members("pyhpc.acceptance.formats", "FORMAT")


def format_of(name: str) -> Format:
    """The format called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in formats():
        raise ConfigError(f"there is no format {name!r}{near(name, formats())}")
    return formats()[name]
