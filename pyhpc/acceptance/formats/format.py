"""What a format is: one file of this folder with NAME, SUFFIX and `render(report) -> str`; the listing is the registry.

A format shows what the report says and computes no verdict. Its file is report.SUFFIX, or FILE where the field expects
another name.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from pyhpc.acceptance.config import near
from pyhpc.acceptance.report import Report
from pyhpc.errors import ConfigError


@functools.cache
def formats() -> dict[str, ModuleType]:
    """Every format of this folder by name."""
    import pyhpc.acceptance.formats as folder

    modules = (
        importlib.import_module(f"{folder.__name__}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)
    )
    return {module.NAME: module for module in modules if hasattr(module, "render")}


def format_of(name: str) -> Callable[[Report], str]:
    """The `render` of a format.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in formats():
        raise ConfigError(f"there is no format {name!r}{near(name, formats())}")
    render: Callable[[Report], str] = formats()[name].render
    return render


def file_name(name: str) -> str:
    """The name of a format's file in the run folder."""
    format_of(name)
    module = formats()[name]
    return str(getattr(module, "FILE", f"report.{module.SUFFIX}"))
