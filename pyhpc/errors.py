"""The exceptions of pyhpc.

PyhpcError
├── InvalidArgument   (ValueError)         an argument a function cannot take: shape, dtype, device, overlap
├── Unsupported       (NotImplementedError) valid, but not possible here: a missing library, instruction set or GPU
├── DeviceError       (RuntimeError)       a GPU or its driver failed
├── CommunicationError (RuntimeError)      another rank died, was interrupted, or did not answer in time
├── ConfigError       (ValueError)         a suite or command line that cannot be used; carries file and line
├── WrongResult       (ArithmeticError)    a checked product whose checksums do not fit: the hardware computed wrong
├── MeasurementError  (RuntimeError)       a measurement that could not be taken or did not verify
└── RunError          (RuntimeError)       a run folder that cannot be written, read or resumed
"""

from __future__ import annotations


class PyhpcError(Exception):
    """Base of every error that pyhpc raises on purpose."""


class InvalidArgument(PyhpcError, ValueError):
    """An argument that the function cannot take; the sentence says which, why, and what is possible."""


class Unsupported(PyhpcError, NotImplementedError):
    """A valid request that this machine or build cannot serve; the sentence says what is missing."""


class DeviceError(PyhpcError, RuntimeError):
    """A GPU or its driver reported a failure."""


class WrongResult(PyhpcError, ArithmeticError):
    """An element of a checked result is further from its exact value than rounding can bring it.

    Attributes:
        index: of the worst element of the first wrong row, batch first.
        found, expected: what it is, and its value computed again in float64.
        tolerance: how far from `expected` rounding may bring it.
        tile: of a GPU: rows and columns of the last two axes that were computed together with it.
        multiprocessors: of a GPU: which computed the tile: one, or one for each part of k.
    """

    def __init__(
        self,
        index: tuple[int, ...],
        found: float,
        expected: float,
        tolerance: float,
        tile: tuple[slice, slice] | None = None,
        multiprocessors: tuple[int, ...] = (),
    ) -> None:
        where, who, what = ", ".join(map(str, index)), "the processor", "machine"
        if tile is not None:
            rows, columns = (f"{axis.start}:{axis.stop}" for axis in tile)
            numbers = " and ".join(map(str, multiprocessors))
            who, what = f"multiprocessor {numbers}, which computed the tile [{rows}, {columns}],", "GPU"
        super().__init__(
            f"out[{where}] is {found!r}, but {expected!r} ± {tolerance:.3g} is right: {who} or the memory gave "
            f"a wrong value; repeat the call, and if it happens again take this {what} out of use"
        )
        self.index, self.found, self.expected, self.tolerance = index, found, expected, tolerance
        self.tile, self.multiprocessors = tile, multiprocessors


class CommunicationError(PyhpcError, RuntimeError):
    """Another rank died, was interrupted, or did not answer in time; the sentence names it."""


class ConfigError(PyhpcError, ValueError):
    """A suite or command line that cannot be used. `file` and `line` say where, when known."""

    def __init__(self, sentence: str, file: str | None = None, line: int | None = None) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(where + sentence)
        self.file, self.line = file, line


class MeasurementError(PyhpcError, RuntimeError):
    """A measurement that could not be taken, or whose result was wrong."""


class RunError(PyhpcError, RuntimeError):
    """A run folder that cannot be written, read or resumed."""
