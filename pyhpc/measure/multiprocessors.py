"""What a GPU's multiprocessors did during one product, from the records its tiles wrote (csrc/matmul/tile_log.h).

    log = records(words)                  # words: uint64 (tiles, 8), as _cuda.matmul.run_logged fills it
    clock_hertz(log)                      # multiprocessor → its own clock during the product
    slow(log, tolerance=0.05)             # those whose tiles take longer than the others', in cycles
    culprits(log, wrong)                  # wrong elements → the multiprocessors that computed them

Cycles per tile should be alike on all multiprocessors whatever their clock: more cycles mean a longer way to the L2, a
replayed memory error, or a defect. The clock is cycles over nanoseconds, no driver asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median

import numpy as np

WORDS = 8


@dataclass(frozen=True)
class TileRecord:
    """One tile, or one part of k of it."""

    multiprocessor: int
    cycles: int
    nanoseconds: int
    row: int
    column: int
    batch: int
    rows: int
    columns: int
    transposed: bool = False  # the product was computed as its transpose


def records(words: np.ndarray) -> tuple[TileRecord, ...]:
    """The records in `words`, in the order of the tiles.

    Raises:
        ValueError: the shape is not (tiles, 8).
    """
    if words.ndim != 2 or words.shape[1] != WORDS:
        raise ValueError(f"a log has shape (tiles, {WORDS}), not {words.shape}")
    return tuple(
        TileRecord(
            number,
            cycles,
            end - begin,
            row,
            column,
            batch,
            extent >> 32 & 0x7FFFFFFF,
            extent & 0xFFFFFFFF,
            bool(extent >> 63),
        )
        for number, cycles, begin, end, row, column, batch, extent in words.tolist()
    )


def _by_multiprocessor(log: tuple[TileRecord, ...]) -> dict[int, list[TileRecord]]:
    found: dict[int, list[TileRecord]] = {}
    for record in log:
        found.setdefault(record.multiprocessor, []).append(record)
    return dict(sorted(found.items()))


def clock_hertz(log: tuple[TileRecord, ...]) -> dict[int, float]:
    """The clock of each multiprocessor that computed something."""
    sums = {
        number: (sum(record.cycles for record in own), sum(record.nanoseconds for record in own))
        for number, own in _by_multiprocessor(log).items()
    }
    return {number: cycles / nanoseconds * 1e9 for number, (cycles, nanoseconds) in sums.items() if nanoseconds}


def slow(log: tuple[TileRecord, ...], tolerance: float = 0.05) -> dict[int, float]:
    """Multiprocessors whose median tile takes more than 1 + `tolerance` times as many cycles as that of the median
    multiprocessor → how many times as many."""
    if not log:
        return {}
    typical = {number: median(record.cycles for record in own) for number, own in _by_multiprocessor(log).items()}
    middle = median(typical.values())
    return {number: cycles / middle for number, cycles in typical.items() if cycles > (1 + tolerance) * middle}


def culprits(log: tuple[TileRecord, ...], wrong: np.ndarray) -> dict[int, int]:
    """How many of the wrong elements each multiprocessor computed, the most first.

    Args:
        wrong: (count, 2) or (count, 3): row and column, or batch, row and column, of each wrong element. Where k was
            split all blocks of the tile are named.
    """
    counts: Counter[int] = Counter()
    for place in np.atleast_2d(wrong).tolist():
        batch, row, column = place if len(place) == 3 else (0, *place)
        counts.update(
            record.multiprocessor
            for record in log
            if record.batch == batch
            and 0 <= row - record.row < record.rows
            and 0 <= column - record.column < record.columns
        )
    return dict(counts.most_common())
