"""pyhpc: HPC kernels, and the acceptance of the machines they run on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyhpc.kernels.allreduce import allreduce
    from pyhpc.kernels.allreduce_persistent import AllReduce, allreduce_buffer
    from pyhpc.kernels.attention import attention
    from pyhpc.kernels.attention_backward import attention_backward
    from pyhpc.kernels.matmul import matmul
    from pyhpc.kernels.matmul_packed import pack
    from pyhpc.kernels.matmul_scaled import scaled_matmul

__version__ = "0.1.0"
__all__ = [
    "AllReduce",
    "__version__",
    "allreduce",
    "allreduce_buffer",
    "attention",
    "attention_backward",
    "matmul",
    "pack",
    "scaled_matmul",
]

# Of names whose modules are called otherwise.
_MODULES = {
    "AllReduce": "allreduce_persistent",
    "allreduce_buffer": "allreduce_persistent",
    "pack": "matmul_packed",
    "scaled_matmul": "matmul_scaled",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use: `import pyhpc` stays quick on ten thousand ranks.
    if name in __all__ and name != "__version__":
        # Kept: the next use is an ordinary look-up.
        module = importlib.import_module(f"pyhpc.kernels.{_MODULES.get(name, name)}")
        globals()[name] = function = getattr(module, name)
        return function
    raise AttributeError(f"module 'pyhpc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
