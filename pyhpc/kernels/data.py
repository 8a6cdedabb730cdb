"""Element types and operand data of problems.

An operand is drawn from a counter-based generator (Philox 4x64-10; Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011) keyed by the problem's seed and the operand's name, so it does not depend on what was drawn before
it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    **{
        name: np.dtype(name)
        for name in (
            "float64",
            "float32",
            "float16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint64",
            "uint32",
            "uint16",
            "uint8",
        )
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# Half the distance from 1 to the next number: the largest relative error of rounding to nearest (IEEE 754, bfloat16).
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# Powers of two that "ill-scaled" operands span on each side of 1: wide, and products of two stay normal numbers.
_ILL_SCALED_EXPONENT = {"float64": 200, "float32": 20, "bfloat16": 20, "float16": 4}

_INT8_LIMIT = 127  # -128 is left out: symmetric, as quantised networks use int8


def gamma(count: int, unit_roundoff: float) -> float:
    """γ_n = n·u / (1 - n·u): bounds the relative error that n roundings accumulate (Higham 2002, lemma 3.1)."""
    product = count * unit_roundoff
    return product / (1.0 - product) if product < 1.0 else float("inf")


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The random generator of `purpose` (an operand's name, "signs" …) in a problem with this seed."""
    return np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(purpose.encode())]))


def _normal(shape: tuple[int, ...], name: str, random: np.random.Generator) -> np.ndarray:
    if name == "int8":
        values: np.ndarray = np.rint(32.0 * random.standard_normal(shape, np.float32))
        return values.clip(-_INT8_LIMIT, _INT8_LIMIT)
    return random.standard_normal(shape, np.float64 if name == "float64" else np.float32)


def _uniform(shape: tuple[int, ...], name: str, random: np.random.Generator) -> np.ndarray:
    if name == "int8":
        return random.integers(-_INT8_LIMIT, _INT8_LIMIT, shape, np.int8, endpoint=True)
    unit: np.ndarray = random.random(shape, np.float64 if name == "float64" else np.float32)
    return 2 * unit - 1


def _zeros(shape: tuple[int, ...], name: str, random: np.random.Generator) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _integers(shape: tuple[int, ...], name: str, random: np.random.Generator) -> np.ndarray:
    return random.integers(-4, 4, shape, np.int8, endpoint=True)


def _ill_scaled(shape: tuple[int, ...], name: str, random: np.random.Generator) -> np.ndarray:
    if name == "int8":
        return random.choice(np.array([-_INT8_LIMIT, -1, 1, _INT8_LIMIT], np.int8), shape)
    span = _ILL_SCALED_EXPONENT[name]
    values: np.ndarray = np.ldexp(
        _normal(shape, name, random), random.integers(-span, span, shape, np.int32, endpoint=True)
    )
    return values


PATTERNS: dict[str, Callable[[tuple[int, ...], str, np.random.Generator], np.ndarray]] = {
    "normal": _normal,  # mean 0, deviation 1 (int8: 32)
    "uniform": _uniform,  # in [-1, 1) (int8: all but -128)
    "zeros": _zeros,  # no bit ever flips: the least power
    "integers": _integers,  # -4 … 4 (matmul: as large as stays exact): sums are exact, so the tolerance is 0
    "ill-scaled": _ill_scaled,  # normal times 2^e, e uniform over a wide range
}


def operand(shape: tuple[int, ...], dtype: str, pattern: str, seed: int, name: str) -> np.ndarray:
    """A C-contiguous operand called `name` with the data of `pattern`."""
    return PATTERNS[pattern](shape, dtype, generator(seed, name)).astype(DTYPES[dtype], copy=False)


def integers(shape: tuple[int, ...], dtype: str, largest: int, seed: int, name: str) -> np.ndarray:
    """As `operand`, of whole numbers from -largest to largest, which the dtype must hold."""
    values = generator(seed, name).integers(-largest, largest, shape, np.int32, endpoint=True)
    return values.astype(DTYPES[dtype])


def poisoned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An output array of NaN, or of the lowest integer: an element that nobody writes is seen."""
    kind = DTYPES[dtype]
    return np.full(shape, np.iinfo(kind).min if kind.kind in "iu" else np.nan, kind)


def require_sizes(values: dict[str, int], lowest: int = 1) -> None:
    """Refuse sizes that are no integers ≥ `lowest`.

    Raises:
        ValueError: the sentence names the size.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {lowest}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of `choices`.

    Raises:
        ValueError: the sentence lists the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
