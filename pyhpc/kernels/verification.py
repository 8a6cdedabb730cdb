"""Comparing a result with its float64 reference, element by element, panel by panel."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pyhpc.kernels.kernel import Check

_LARGEST = float(np.finfo(np.float64).max)  # records hold no infinity


@dataclass
class Tally:
    """Adds up comparisons into one `Check`."""

    elements: int = 0
    wrong: int = 0
    worst: float = 0.0
    first_wrong: str | None = field(default=None)

    def compare(
        self, result: np.ndarray, reference: np.ndarray, tolerance: np.ndarray, where: str, origin: tuple[int, ...]
    ) -> None:
        """Compare one panel: |result - reference| ≤ tolerance, which NaN never fulfils.

        `where` names the array, `origin` is the index of the panel's first element in it.
        """
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            error = np.abs(result - reference)
            right = error <= tolerance
            self.elements += right.size
            if right.all():
                # 0/0 (exact where exactness is demanded) is no error.
                ratio = np.divide(error, tolerance, out=np.zeros_like(error), where=tolerance > 0)
                self.worst = max(self.worst, float(ratio.max(initial=0.0)))
                return
            self.wrong += int(right.size - np.count_nonzero(right))
            ratio = np.nan_to_num((error / tolerance)[~right], nan=_LARGEST, posinf=_LARGEST)
            self.worst = max(self.worst, float(ratio.max()))
        if self.first_wrong is None:
            at = tuple(int(i) for i in np.argwhere(~right)[0])
            index = ", ".join(str(first + offset) for first, offset in zip(origin, at, strict=True))
            expected = f"{float(reference[at])!r} ± {float(tolerance[at]):.3g}"
            self.first_wrong = f"{where}[{index}] is {float(result[at])!r}, expected {expected}"

    def check(self, method: str) -> Check:
        """The sum of all comparisons."""
        return Check(self.elements, self.wrong, self.worst, method, self.first_wrong)


def refuse_shape(result: np.ndarray, shape: tuple[int, ...]) -> Check | None:
    """The failed check of a result that has not the contract's shape, or None."""
    if result.shape == shape:
        return None
    count = max(1, int(np.prod(shape)))
    return Check(count, count, _LARGEST, "shape", f"the result has shape {result.shape}, expected {shape}")
