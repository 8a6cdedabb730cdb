"""The compiled modules: `cpu()` always, `cuda()` where a CUDA build, a driver and a GPU exist.

The only importer of `_cpu` and `_cuda`.
"""

from __future__ import annotations

import functools
from types import ModuleType

from pyhpc.errors import Unsupported


@functools.cache
def cpu() -> ModuleType:
    """The CPU module.

    Raises:
        Unsupported: the package was not built (for example when imported from a source tree).
    """
    try:
        from pyhpc import _cpu
    except ImportError as error:
        raise Unsupported(f"the compiled module pyhpc._cpu cannot be loaded ({error}); install the package with pip") from error
    return _cpu


@functools.cache
def cuda_absence() -> str | None:
    """Why `cuda()` cannot be used here, as the end of "absent because …", or None."""
    try:
        from pyhpc import _cuda
    except ImportError as error:
        return f"this build has no CUDA module ({error})"
    reason: str | None = _cuda.absence()
    return reason


def cuda() -> ModuleType:
    """The CUDA module.

    Raises:
        Unsupported: there is no CUDA build, driver or GPU; the sentence says which.
    """
    reason = cuda_absence()
    if reason is not None:
        raise Unsupported(f"CUDA is absent because {reason}")
    from pyhpc import _cuda

    return _cuda
