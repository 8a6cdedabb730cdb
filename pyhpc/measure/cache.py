"""Cold caches: stream through more memory than the caches hold.

One thread on every core this process may use reads and writes its own share of a buffer of twice the caches: private
caches are emptied by their own core, the shared last level by all together. (One thread alone would leave the level-2
caches of the other cores warm, and non-inclusive last levels do not take them along.)
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_UNKNOWN_CACHE_BYTES = 64 << 20  # assumed for the last level where the system does not say
_FACTOR = 2  # replacement is not exactly least-recently-used: twice the size evicts what once would leave


def cache_bytes() -> dict[str, int]:
    """Bytes of each data cache above core 0: {"l1d": …, "l2": …, "l3": …}; what the system does not tell is absent."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue  # a level that the kernel names but does not describe
        if kind != "Instruction":
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1], 1)
            found["l1d" if level == "1" else f"l{level}"] = int(size.rstrip("KMG")) * unit
    return found


def evict_caches() -> None:
    """Replace the contents of all data caches of the cores this process may use."""
    share = _share_bytes()
    threads = [threading.Thread(target=_stream, args=(core, share)) for core in sorted(os.sched_getaffinity(0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@functools.cache
def _share_bytes() -> int:
    """Bytes one core streams: twice its private cache, or its part of twice the last level, whichever is more."""
    sizes = cache_bytes()
    private, last = sizes.get("l2", 0), max(sizes.get("l3", 0), sizes.get("l4", 0)) or _UNKNOWN_CACHE_BYTES
    # A machine of several sockets or core complexes has several last levels: counted as if each core group had its own.
    return _FACTOR * max(private, last // len(os.sched_getaffinity(0)) * _last_level_caches())


@functools.cache
def _last_level_caches() -> int:
    """How many last-level caches the usable cores sit on."""
    groups = set()
    for core in os.sched_getaffinity(0):
        levels = sorted(Path(f"/sys/devices/system/cpu/cpu{core}/cache").glob("index*/shared_cpu_list"))
        groups.add(levels[-1].read_text() if levels else "")
    return len(groups)


@functools.cache
def _buffer(core: int, size: int) -> np.ndarray:
    import numpy as np  # here, because machine.py needs this file where no numpy is (judging a stored run)

    return np.zeros(size // 8, dtype=np.int64)


def _stream(core: int, size: int) -> None:
    os.sched_setaffinity(0, {core})  # of this thread alone
    buffer = _buffer(core, size)
    buffer += 1
