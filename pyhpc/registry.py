"""The folder is the list: what a package's files define is found by listing them, so adding one edits nothing."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def members(package: str, attribute: str) -> dict[str, Any]:
    """Name → `attribute` of each file of `package` that has one, in the folder's order; the name is its own."""
    folder = importlib.import_module(package)
    modules = (importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder.__path__))
    found = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {member.name: member for member in found}
