"""A matrix packed once for many products: what the second operand of `matmul` costs each time is paid at one time."""

from __future__ import annotations

from typing import Any, Protocol

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.arrays import HOST, Operand, describe
from pyhpc.native import cpu


class Packed(Protocol):
    """What `pack` returns."""

    @property
    def shape(self) -> tuple[int, int]:
        """(k, n) of the matrix."""

    @property
    def dtype(self) -> str:
        """Of the matrix: "float32" …"""

    @property
    def variant(self) -> str:
        """The native variant whose layout it has."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""


def pack(b: Any, *, threads: int | None = None, variant: str | None = None) -> Packed:
    """`b` in the layout in which `matmul` reads it: for constant weights, `matmul(a, pack(b))` many times.

    `matmul` otherwise packs b in every call, which for a few rows of a takes longer than to multiply. The packed
    operand cannot be changed, keeps no reference to b, and may be used by any number of threads at a time. It is of
    this machine and this variant: a layout, not a format to be stored.

    Args:
        b: (k, n), on the CPU, of any library, strides and dtype that `matmul` takes.
        threads: to pack with; by default all that this process may use.
        variant: the native variant to pack for; by default the one that `matmul` would choose.

    Returns:
        The packed operand, with `shape`, `dtype`, `variant` and `nbytes` (16-bit operands take 32 bits). Products with
        it have the error bound of `matmul`, and the same bits whatever the number of threads. They have the bits of the
        product with b itself where that packs b in the same blocks: always for int8, otherwise for many rows of a; for
        few it sums in another order.

    Raises:
        InvalidArgument: b is no matrix of a dtype that matmul takes, or not on the CPU.
        Unsupported: the variant cannot run here.
    """
    operand = describe(b, "b")
    if operand.device != HOST:
        raise InvalidArgument("b is on a GPU; pack is for arrays on the CPU")
    packed: Packed = cpu().matmul.pack(operand.array, threads or 0, variant or "")
    return packed


def packed_operand(b: Any, a: Operand) -> Operand | None:
    """`b` described as an operand beside `a` if it is packed, else None."""
    if type(b).__module__ != "pyhpc._cpu.matmul" or not isinstance(b, cpu().matmul.Packed):
        return None
    return Operand(b, a.library, b.shape, b.dtype, HOST)
