"""The exceptions of pyhpc.

PyhpcError
├── InvalidArgument   (ValueError)         an argument a function cannot take: shape, dtype, device, overlap
├── Unsupported       (NotImplementedError) valid, but not possible here: a missing library, instruction set or GPU
├── DeviceError       (RuntimeError)       a GPU or its driver failed
├── ConfigError       (ValueError)         a suite or command line that cannot be used; carries file and line
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
