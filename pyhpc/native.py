"""The compiled modules: `cpu()` always, `cuda()` where a CUDA build, a driver and a GPU exist; and children with them.

The only importer of `_cpu` and `_cuda`.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pyhpc.errors import Unsupported


def child_command(module: str) -> list[str]:
    """The words that run `module`'s main() in a new Python with this very package.

    `python -m` would take a pyhpc folder that happens to be the current directory, such as an unbuilt source tree.
    """
    place = str(Path(__file__).parents[1])
    return [sys.executable, "-c", f"import sys; sys.path[0] = {place!r}; from {module} import main; main()"]


@functools.cache
def cpu() -> ModuleType:
    """The CPU module.

    Raises:
        Unsupported: the package was not built (for example when imported from a source tree).
    """
    try:
        from pyhpc import _cpu
    except ImportError as error:
        tree = Path(__file__).parents[1]
        if (tree / "csrc").is_dir():
            hint = f"{tree} is a source tree: start Python in another folder, or install it there with pip install -e ."
        else:
            hint = "install the package with pip"
        raise Unsupported(f"the compiled module pyhpc._cpu cannot be loaded ({error}); {hint}") from error
    return _cpu


@functools.cache
def cuda_absence() -> str | None:
    """Why `cuda()` cannot be used here, as the end of "absent because …", or None."""
    if importlib.util.find_spec("pyhpc._cuda") is None:
        return "this build has no CUDA module: no CUDA compiler was found when it was built"
    try:
        from pyhpc import _cuda
    except ImportError as error:
        return f"its module cannot be loaded ({error})"
    return _cuda.absence()


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


def cuda_variants(kernel: str) -> tuple[tuple[str, str], ...]:
    """The CUDA variants of `kernel`, best first, each with the reason why it cannot run here, or "".

    Without a CUDA module their names are not known: one entry, "cuda", carries the reason.
    """
    absence = cuda_absence()
    refusal = f"CUDA is absent because {absence}"
    try:
        from pyhpc import _cuda
    except ImportError:
        return (("cuda", refusal),)
    folder = getattr(_cuda, kernel, None)
    if folder is None:
        return ()
    return tuple((name, refusal if absence else reason) for name, reason in folder.variants())
