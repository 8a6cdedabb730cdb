"""One all-reduce of more than 2^31 elements: no count, offset or size may pass through 32 bits."""

from __future__ import annotations

import psutil
import pytest

PROGRAM = """
import sys
import numpy as np
from pyhpc import allreduce, comm

rank, elements = comm.world().rank, 2**31 + 2**20 + 3
period = [np.random.default_rng(r).integers(-128, 128, 65521).astype(np.int8) for r in (0, 1)]  # prime: a shift shows
whole = elements // 65521 * 65521

def rows(array):
    return array[:whole].reshape(-1, 65521), array[whole:]

x = np.empty(elements, np.int8)
for part in rows(x):
    part[...] = period[rank][: part.shape[-1]]
allreduce(x, algorithm=sys.argv[1], out=x)
exact = period[0] + period[1]
blocks, rest = rows(x)
assert all((blocks[low : low + 1024] == exact).all() for low in range(0, len(blocks), 1024))
assert (rest == exact[: rest.size]).all()
print(f"rank {rank}: {elements} elements right", flush=True)
"""


@pytest.mark.skipif(psutil.virtual_memory().available < 16 << 30, reason="there are no 16 GiB of free memory")
def test_two_ranks_all_reduce_more_than_two_to_the_31_elements(start_ranks):
    status, said = start_ranks(2, ["-c", PROGRAM, "auto"], timeout=100)
    assert status == 0, said
    assert said.count("2148532227 elements right") == 2
