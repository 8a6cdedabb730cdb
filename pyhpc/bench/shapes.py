"""Shapes as people type them → problems.

matmul      MxNxK, or BATCHxMxNxK; ":tn" stores the first operand transposed      2048x2048x2048   8x64x64x512:nt
attention   (attention_backward as well) BATCHxHEADSxLENGTHxDIM; HEADS may be heads/kv_heads, LENGTH queries/keys;
            ":causal", ":window=W"                                  1x16x2048x128:causal   1x32/8x1/4096x128
these       "quick", "full": the tables of benchmarks/bench_matmul.py and bench_attention.py, full in every dtype
any kernel  its own field names                                              m=64:n=64:k=64:transpose_a=true
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pyhpc.errors import ConfigError
from pyhpc.kernels.attention_problem import ATTENTION_DTYPES
from pyhpc.kernels.kernel import Problem, kernels
from pyhpc.kernels.matmul_problem import RESULT_DTYPE

DEFAULT_SHAPES = {
    "matmul": ("256x256x256", "512x512x512", "1024x1024x1024", "2048x2048x2048"),
    "attention": ("1x8x512x64", "1x8x1024x128", "1x8x1024x128:causal", "1x8x1/2048x128"),
    "attention_backward": ("1x8x512x64", "1x8x1024x128", "1x8x1024x128:causal"),
}

_MATMUL_ROWS = (
    *(f"{size}x{size}x{size}" for size in (256, 512, 1024, 2048, 4096)),
    *(f"{rows}x4096x4096" for rows in (1, 4, 16, 64)),  # skinny: decoding, small batches
    "4096x4096x128",  # an outer product: bound by writing
    "128x128x8192",  # an inner product
)

_SELF_ATTENTION_ROWS = tuple(
    f"1x{heads}x{length}x{depth}{mask}"
    for length, depth in ((512, 64), (512, 128), (2048, 64), (2048, 128))
    for heads in ("8", "8/2")  # the second: grouped queries
    for mask in ("", ":causal")
)
_ATTENTION_ROWS = (
    *_SELF_ATTENTION_ROWS,
    "1x4x8192x128",
    "1x4x8192x128:causal",
    "1x8x4096x128:causal:window=512",
    *(f"1x32/8x1/{length}x128" for length in (4096, 8192, 32768)),  # decoding: bound by memory
    "1x8x1/16384x128",
    "1x16/1x1/32768x128",
)
SETS = {
    "matmul": {"quick": ("1024x1024x1024", "1x4096x4096"), "full": _MATMUL_ROWS},
    "attention": {"quick": ("1x8x512x64", "1x8x512x64:causal", "1x32/8x1/4096x128"), "full": _ATTENTION_ROWS},
    "attention_backward": {"quick": ("1x8x512x64", "1x8x512x64:causal"), "full": _SELF_ATTENTION_ROWS},
}
_FULL_DTYPES = {
    "matmul": tuple(RESULT_DTYPE),
    "attention": ATTENTION_DTYPES,
    "attention_backward": ATTENTION_DTYPES,
}


def problems(kernel_name: str, shapes: Iterable[str], dtypes: Iterable[str]) -> list[Problem]:
    """Every shape in every dtype; without dtypes float32, for "full" all that the kernel takes.

    Raises:
        ConfigError: an unknown kernel, a shape that cannot be read (the sentence shows one that can), a wrong size.
    """
    found = kernels()
    if kernel_name not in found:
        raise ConfigError(f"there is no kernel {kernel_name!r}; there are {', '.join(found)}")
    kernel = found[kernel_name]
    asked = list(shapes) or list(DEFAULT_SHAPES.get(kernel_name, ()))
    if not asked:
        raise ConfigError(f"kernel {kernel_name} has no default shapes; give --shapes field=value:…")
    sets = SETS.get(kernel_name, {})
    wanted = [shape for text in asked for shape in sets.get(text.strip(), (text,))]
    kinds = list(dtypes) or (_FULL_DTYPES[kernel_name] if "full" in sets and "full" in asked else ["float32"])
    return [kernel.problem(_fields(kernel_name, shape) | _dtype(dtype)) for dtype in kinds for shape in wanted]


def _dtype(dtype: str) -> dict[str, str]:
    return {"dtype": dtype} if dtype else {}


def _fields(kernel_name: str, shape: str) -> dict[str, Any]:
    text = shape.strip()
    if "=" in text.partition(":")[0]:
        return dict(_assignment(part, shape) for part in text.split(":"))
    reader = _READERS.get(kernel_name)
    if reader is None:
        raise ConfigError(f"a shape of {kernel_name} is written field=value:field=value; {shape!r} is not")
    return reader(text)


def _matmul(text: str) -> dict[str, Any]:
    sizes, _, order = text.partition(":")
    numbers = _whole(sizes.split("x"), text, "matmul", (3, 4), "MxNxK or BATCHxMxNxK, such as 1024x1024x1024")
    if order not in ("", "nn", "nt", "tn", "tt"):
        raise ConfigError(
            f"matmul shape {text!r} ends in {order!r}; possible are nn, nt, tn, tt (t: stored transposed)"
        )
    batch, m, n, k = numbers if len(numbers) == 4 else [1, *numbers]
    fields: dict[str, Any] = {"m": m, "n": n, "k": k, "batch": batch}
    if order:
        fields |= {"transpose_a": order[0] == "t", "transpose_b": order[1] == "t"}
    return fields


def _attention(text: str) -> dict[str, Any]:
    sizes, *options = text.split(":")
    parts = sizes.split("x")
    form = "BATCHxHEADS[/KV_HEADS]xLENGTH[/KEYS]xDIM, such as 1x16x2048x128 or 1x32/8x1/4096x128"
    if len(parts) != 4:
        raise ConfigError(f"attention shape {text!r} cannot be read; write {form}")
    heads, length = (parts[axis].split("/") for axis in (1, 2))
    if len(heads) > 2 or len(length) > 2:
        raise ConfigError(f"attention shape {text!r} cannot be read; write {form}")
    numbers = _whole([parts[0], heads[0], heads[-1], length[0], length[-1], parts[3]], text, "attention", (6,), form)
    fields: dict[str, Any] = dict(
        zip(("batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim"), numbers, strict=True)
    )
    for option in options:
        name, _, value = option.partition("=")
        if option == "causal":
            fields["causal"] = True
        elif name == "window" and value.isdecimal():
            fields["window"] = int(value)
        else:
            raise ConfigError(f"attention shape {text!r} ends in {option!r}; possible are causal and window=W")
    return fields


def _whole(parts: list[str], text: str, kernel: str, counts: tuple[int, ...], form: str) -> list[int]:
    if len(parts) not in counts or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{kernel} shape {text!r} cannot be read; write {form}")
    return [int(part) for part in parts]


def _assignment(part: str, shape: str) -> tuple[str, Any]:
    name, equals, value = part.strip().partition("=")
    if not equals or not value:
        raise ConfigError(f"shape {shape!r}: {part!r} is not field=value")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    return name, int(value) if value.lstrip("-").isdecimal() else value


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "matmul": _matmul,
    "attention": _attention,
    "attention_backward": _attention,
}
