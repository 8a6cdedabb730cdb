"""The operands of a row of device.py on the host and the GPU, their float64 product, and PyTorch's of the same data."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
TYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16", "int8", "int32")} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", *FLOAT8)
}


class Strided(NamedTuple):
    """An array in GPU memory, with strides in bytes, as every library reads it."""

    memory: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.memory.pointer, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": self.strides, "version": 3}


def place(host: np.ndarray, transposed: bool, pitch: int) -> Strided:
    """A copy on the GPU; its lines, or columns if transposed, padded to multiples of `pitch` elements."""
    lines = host.T if transposed else host
    padded = np.zeros((lines.shape[0], -(-lines.shape[1] // pitch) * pitch), host.dtype)
    padded[:, : lines.shape[1]] = lines
    memory = cuda_module().Memory(padded.nbytes)
    memory.copy_from(padded)
    strides = padded.strides[::-1] if transposed else padded.strides
    return Strided(memory, host.shape, strides, host.dtype)


def fetch(array: Strided) -> np.ndarray:
    """A copy on the host of an array whose lines may be padded."""
    whole = np.empty(array.memory.bytes, np.uint8)
    array.memory.copy_to(whole)
    return np.ndarray(array.shape, array.dtype, whole, strides=array.strides)


def poison(array: Strided) -> None:
    """NaN in every floating-point type."""
    array.memory.copy_from(np.full(array.memory.bytes, 0xFF, np.uint8))


def cuda_module() -> Any:
    from pyhpc.native import cuda

    return cuda()


class Products:
    """The operands of a row, on the host and on the GPU."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row, dtype = row, TYPES[row["dtype"]]
        generator = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))  # fresh on every run
        m, n, k = row["m"], row["n"], row["k"]

        def operand(rows: int, columns: int) -> np.ndarray:
            if row.get("pattern") == "integers" or dtype.kind == "i":
                return generator.integers(-127, 128, (rows, columns)).astype(dtype)
            return generator.standard_normal((rows, columns), np.float32).astype(dtype)

        self.a, self.b = operand(m, k), operand(k, n)
        blocks = [-(-size // 128) for size in (k, n)]
        shapes = {"one": ((1, 1), (1, 1)), "lines": ((m, 1), (1, n)), "blocks": ((m, blocks[0]), tuple(blocks))}
        self.scales = [
            generator.uniform(0.5, 2, shape).astype(np.float32) for shape in shapes.get(row.get("scales", ""), ())
        ]
        stored = (x.view(np.uint8) if row["dtype"] in FLOAT8 else x for x in (self.a, self.b))
        self.on_gpu = [place(x, letter == "t", row["pitch"]) for x, letter in zip(stored, row["layout"], strict=True)]
        self.out = place(np.zeros((m, n), TYPES[row["out"]]), False, row["pitch"])
        self.kind = {"operands": row["dtype"] if row["dtype"] in FLOAT8 else "", "tf32": row.get("tf32", False)}
        names = ("scale_a", "scale_b")
        self.options = self.kind | {x: place(y, False, 1) for x, y in zip(names, self.scales, strict=False)}

    def enqueue(self, variant: str = "") -> None:
        cuda_module().matmul.run(*self.on_gpu, self.out, False, 0, variant, **self.options)

    def scaled(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a, and b, in float64 and times their scales."""
        a, b = self.a[rows].astype(np.float64), self.b.astype(np.float64)
        if not self.scales:
            return a, b
        scale_a, scale_b = self.scales[0][rows] if len(self.scales[0]) > 1 else self.scales[0], self.scales[1]
        if self.row["scales"] == "blocks":
            scale_a = np.repeat(scale_a, 128, 1)[:, : a.shape[1]]
            scale_b = np.repeat(np.repeat(scale_b, 128, 0)[: len(b)], 128, 1)[:, : b.shape[1]]
        return a * scale_a, b * scale_b

    def relative_bound(self) -> float:
        """Of the sums, times |a| |b|: twice that of sums rounded to nearest, for the tensor cores cut off."""
        k, out = self.row["k"], self.row["out"]
        if self.row["dtype"] == "int8" or self.row.get("pattern") == "integers":
            return 0.0
        bound = (k + 4) * (2.0**-52 if out == "float64" else 2.0**-23)
        if self.row["dtype"] in FLOAT8:  # 32 products at a time are added in about 14 bits; blocks start anew
            bound += (8 if self.row.get("scales") == "blocks" else k / 32 + 4) * 2.0**-13
        if self.row.get("tf32"):
            bound += 2.0**-9 + 2.0**-20
        return bound

    def wrong(self, found: np.ndarray, rows: np.ndarray) -> str:
        """What float64 says of these rows of a result, "" if they are within the rounding bound."""
        a, b = self.scaled(rows)
        exact = a @ b
        bound = self.relative_bound() * (np.abs(a) @ np.abs(b))
        if self.relative_bound() == 0:
            exact = exact.astype(found.dtype).astype(np.float64)
        else:
            of = ml_dtypes.finfo(found.dtype)
            bound += float(of.eps) * np.maximum(np.abs(exact), float(of.smallest_normal))
        bad = ~(np.abs(found[rows].astype(np.float64) - exact) <= bound)
        if not bad.any():
            return ""
        i, j = np.argwhere(bad)[0]
        return f"{bad.sum()} wrong elements, first [{rows[i]}, {j}]: {found[rows[i], j]}, right is {exact[i, j]}"


def torch_contestant(products: Products) -> Callable[[], Any] | None:
    """PyTorch's product of the same operands, of the same layout, on the default stream; None where it has none."""
    torch, row = loaded_torch(), products.row
    if torch is None:
        return None

    def tensor(array: np.ndarray, transposed: bool) -> Any:
        lines = np.ascontiguousarray(array.T if transposed else array)
        bits = lines.view(f"i{lines.itemsize}")  # NumPy's name for what PyTorch calls otherwise
        there = torch.from_numpy(bits).cuda().view(getattr(torch, array.dtype.name))
        return there.T if transposed else there

    left, right = (letter == "t" for letter in row["layout"])
    a, b = tensor(products.a, left), tensor(products.b, right)
    torch.backends.cuda.matmul.allow_tf32 = bool(row.get("tf32"))
    if row["dtype"] == "int8":
        return lambda: torch._int_mm(a, b)
    if row["dtype"] not in FLOAT8:
        out = torch.empty(row["m"], row["n"], dtype=a.dtype, device="cuda")
        return lambda: torch.matmul(a, b, out=out)
    given = products.scales or [np.ones((1, 1), np.float32)] * 2
    # It wants the scales of a column by column, those of b as for its transpose.
    scales = [tensor(scale, scale.shape[0] > 1) for scale in given]
    call = lambda: torch._scaled_mm(a, b, *scales, out_dtype=getattr(torch, row["out"]))  # noqa: E731
    try:
        call()
    except (RuntimeError, ValueError) as error:  # a version without such scales: the row goes on without it
        products.row["torch_absent"] = str(error).splitlines()[0]
        return None
    return call


def loaded_torch() -> Any:
    """PyTorch, if it sees a GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None
