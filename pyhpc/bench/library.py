"""Which BLAS this process really uses, and which of its kernels: OpenBLAS chooses by processor, or by environment."""

from __future__ import annotations

import ctypes
from pathlib import Path

_CORE_NAMES = ("openblas_get_corename", "scipy_openblas_get_corename64_", "scipy_openblas_get_corename")


def blas_library(peer: str) -> str:
    """What `peer` computes with: "OpenBLAS SkylakeX", or "" where that does not depend on the machine."""
    if peer not in ("numpy", "openblas"):
        return ""
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    found = sorted(path for path in loaded if "openblas" in path.lower())
    # The package of the peer "openblas" is loaded beside NumPy's own.
    chosen = [path for path in found if ("scipy_openblas64/" in path) == (peer == "openblas")] or found
    if chosen:
        return f"OpenBLAS {_core_name(chosen[0])}".strip()
    return "MKL" if any("libmkl" in path for path in loaded) else ""


def _core_name(path: str) -> str:
    library = ctypes.CDLL(path)
    for name in _CORE_NAMES:
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = ctypes.c_char_p
            return str(function().decode())
    return ""
