"""Whether every tile of a logged GPU product is right, from the sums of its lines that the kernel wrote.

    s_i = Σ_j c_ij over the columns j of a tile            (csrc/matmul/tile_log.h, before rounding and storing)
    must be Σ_p a_ip (Σ_j b_pj)                            (Huang and Abraham, "Algorithm-based fault tolerance for
                                                            matrix operations", 1984)

and, where the product was computed transposed, the same with rows and columns exchanged. The right side is computed in
float64 once for operands that are multiplied again and again, as under a burn-in; then only the sums are compared.

Threshold. A tensor core adds k products in k/16 steps (of 16 bits; in proportion for others) and cuts off at most
2^-23 of the partial sum in each; the sums of a line have 66 more additions. The size of partial sums is not known: they
are taken as no larger than the element itself or, where it is small by cancellation, 4 times the random walk
‖a_i‖ ‖b_j‖ / √k. That is a model for data whose order along k means nothing, not a proof, as V-ABFT (arXiv 2602.08043)
is. Integers must agree exactly, modulo 2^32.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pyhpc.measure.multiprocessors import TileRecord

LINES = 256  # of a tile, at most, that have sums
_STEP_BYTES = 32  # of an operand along k that the tensor cores add in one step


@dataclass(frozen=True)
class WrongTile:
    """A tile with a line whose sum is not the product's."""

    multiprocessors: tuple[int, ...]  # that computed it: one, or one for each part of k
    tile: TileRecord
    line: int  # of out: a row, or a column where the product was computed transposed
    found: float
    expected: float
    threshold: float


@dataclass(frozen=True)
class TileChecksums:
    """What the sums of the lines of every tile of one product must be.

    Args of `of`: the log of a product, its operands (m, k) and (k, n), what their elements have in bytes on the GPU.
    """

    places: tuple[tuple[int, ...], ...]  # the records of each tile in the log: one, or those of its parts of k
    expected: tuple[np.ndarray, ...]  # of each tile, for its lines
    walk: tuple[np.ndarray, ...]  # 4 Σ_j ‖a_i‖ ‖b_j‖ / √k of each line
    steps: float

    @classmethod
    def of(cls, log: tuple[TileRecord, ...], a: np.ndarray, b: np.ndarray, itemsize: int) -> TileChecksums:
        """For a product of matrices of finite numbers; k is at least 1."""
        parts: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, record in enumerate(log):
            if record.row < len(a) and record.column < b.shape[1]:  # a cluster's second tile may lie outside
                parts[record.row, record.column].append(number)
        tiles = [log[numbers[0]] for numbers in parts.values()]
        # All tiles alike: the lines are rows of out, or columns.
        side = _Side(b.T, a, tiles) if tiles and tiles[0].transposed else _Side(a, b.T, tiles)
        found = [side.line_sums(tile) for tile in tiles]
        return cls(
            tuple(map(tuple, parts.values())),
            tuple(expected for expected, _ in found),
            tuple(walk for _, walk in found),
            a.shape[1] * itemsize / _STEP_BYTES,
        )

    def wrong(self, log: tuple[TileRecord, ...], sums: np.ndarray) -> list[WrongTile]:
        """The tiles whose worst line is beyond its threshold.

        Args:
            log: of this product: which multiprocessor computes a tile changes from one to the next.
            sums: (records, 256, 2), as `_cuda.matmul.run_logged` fills them, viewed as float32 or int32.
        """
        result = []
        for places, expected, walk in zip(self.places, self.expected, self.walk, strict=True):
            lines = sums[list(places), : len(expected)].astype(np.float64)
            found, sizes = lines[..., 0].sum(axis=0), lines[..., 1].sum(axis=0)
            if sums.dtype.kind == "i":
                error = (found.astype(np.int64) - expected.astype(np.int64)).astype(np.int32).astype(np.float64)
                threshold = np.zeros_like(error)
            else:
                error = found - expected
                threshold = (self.steps + len(places)) * 2.0**-23 * (sizes + walk) + 66 * 2.0**-24 * sizes
            beyond = ~((np.abs(error) <= threshold) & np.isfinite(threshold))  # also what is no number
            if beyond.any():
                line = int(np.argmax(np.where(beyond, np.nan_to_num(np.abs(error), nan=np.inf), -1)))
                tile = log[places[0]]
                result.append(
                    WrongTile(
                        tuple(log[place].multiprocessor for place in places),
                        tile,
                        (tile.column if tile.transposed else tile.row) + line,
                        float(found[line]),
                        float(expected[line]),
                        float(threshold[line]),
                    )
                )
        return result


class _Side:
    """The operand whose rows are the lines (lines, k), and the other (columns of a line, k)."""

    def __init__(self, lines: np.ndarray, others: np.ndarray, tiles: list[TileRecord]) -> None:
        self.lines = lines
        spans = sorted({_spans(tile)[1] for tile in tiles})
        self.numbers = {span: number for number, span in enumerate(spans)}
        self.weights, self.lengths = np.empty((len(lines[0]), len(spans))), np.empty(len(spans))
        for number, (first, count) in enumerate(spans):
            wide = others[first : first + count].astype(np.float64)
            self.weights[:, number], self.lengths[number] = wide.sum(axis=0), np.linalg.norm(wide, axis=1).sum()
        self.known: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}  # lines are read once for all columns

    def line_sums(self, tile: TileRecord) -> tuple[np.ndarray, np.ndarray]:
        span, columns = _spans(tile)
        if span not in self.known:
            wide = self.lines[span[0] : sum(span)].astype(np.float64)
            walk = 4 * np.linalg.norm(wide, axis=1) / np.sqrt(wide.shape[1])
            self.known[span] = wide @ self.weights, walk[:, None] * self.lengths
        expected, walk = self.known[span]
        number = self.numbers[columns]
        return expected[:, number], walk[:, number]


def _spans(tile: TileRecord) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and count of the tile's lines, and of the columns of each."""
    rows, columns = (tile.row, tile.rows), (tile.column, tile.columns)
    return (columns, rows) if tile.transposed else (rows, columns)
