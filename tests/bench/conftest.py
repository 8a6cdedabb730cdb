"""Rows of a comparison made by hand."""

from __future__ import annotations

import pytest

from pyhpc.bench.comparison import Round, Row
from pyhpc.measure.measurement import Conditions


def _row(name, kind, rounds, flops=1000, size=10, kernel="matmul", error=None, latency=(), others=0.0):
    return Row(
        contestant=name,
        kind=kind,
        kernel=kernel,
        label="float32",
        problem={"for": "float32"} if kind == "ceiling" else {},
        threads=1,
        flops=flops,
        bytes=size,
        error=error,
        rounds=tuple(
            Round(
                index=index,
                seconds=(seconds, seconds * (1.1 if kind == "ceiling" else 0.9), seconds * 1.2),
                batch=1,
                steady=True,
                conditions=Conditions(line_latency_seconds=latency, other_cpu_fraction=others),
            )
            for index, seconds in rounds.items()
        ),
    )


@pytest.fixture
def row():
    """row(name, kind, {round: seconds}) → Row."""
    return _row


@pytest.fixture
def steady():
    """steady(seconds, rounds) → the same time in each round."""
    return lambda seconds, rounds=7: dict.fromkeys(range(rounds), seconds)
