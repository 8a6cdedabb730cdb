"""Swing: a butterfly that swings from side to side, so that partners stay near each other on a ring or torus.

    step k:  even numbers exchange with r + d, odd ones with r − d, d = (1 − (−2)^(k+1)) / 3 = 1, −1, 3, −5, 11 …

The distance after k steps is a third less than recursive halving's 2^k. Half of the vector goes the mirrored way (even
numbers r − d, odd ones r + d), which uses both directions of every link: 4·log2 p messages of half the size. Any number
of ranks, by the simple fold.

Source: D. De Sensi, T. Bonato, D. Saam and T. Hoefler, Swing: short-cutting rings for higher bandwidth allreduce,
NSDI 2024 (the case of a torus of one dimension).
"""

from __future__ import annotations

from pyhpc.kernels.schedules.butterfly import butterfly
from pyhpc.kernels.schedules.schedule import Index


def partner(step: int, number: Index, numbers: int) -> Index:
    """The partner in one direction."""
    distance = (1 - (-2) ** (step + 1)) // 3
    return (number + (1 - 2 * (number % 2)) * distance) % numbers


def mirrored(step: int, number: Index, numbers: int) -> Index:
    """The partner in the other direction."""
    distance = (1 - (-2) ** (step + 1)) // 3
    return (number - (1 - 2 * (number % 2)) * distance) % numbers


ALGORITHM = butterfly(
    "swing",
    "halving and doubling between partners near each other on a ring, both ways round (De Sensi et al. 2024)",
    (partner, mirrored),
)
