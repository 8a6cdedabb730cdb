"""PyTorch as a peer. It is imported inside the functions that need it: loading it takes seconds."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from pyhpc.native import cpu


def torch_absence() -> str | None:
    """Why PyTorch cannot be a peer here, or None."""
    return None if importlib.util.find_spec("torch") else "PyTorch is not installed (pip install 'pyhpc[peers]')"


def tensor(array: np.ndarray) -> Any:
    """The same memory as a PyTorch tensor."""
    import torch

    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)  # PyTorch and ml_dtypes do not know each other


def use_threads(count: int) -> None:
    """Let PyTorch compute on `count` threads (0: all that this process may use)."""
    import torch

    wanted = count or cpu().available_threads()
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
