"""A program for the ranks of any world: every algorithm and order gives the sum, with equal bits on all ranks.

Says on rank 0 how many ranks on how many nodes, as the engine sees them.
"""

from __future__ import annotations

import numpy as np

from pyhpc import allreduce, allreduce_buffer, comm
from pyhpc.kernels.allreduce_plan import engine
from pyhpc.kernels.schedules.schedule import algorithms

world = comm.world()
p, rank = world.size, world.rank
playing = engine(comm.channel(world))
places = world.allgather(comm.node_name())
assert playing.local_ranks == [other for other in range(p) if places[other] == places[rank]], (rank, places)
assert playing.one_node == (len(set(places)) == 1)

for elements in (0, 1003, 100_000):
    rows = [np.random.default_rng(other).random(elements, np.float32) for other in range(p)]
    exact = sum(row.astype(np.float64) for row in rows)
    asked = [(name, "fast") for name in (*algorithms(), "mpi")]
    for name, order in [*asked, ("auto", "fast"), ("auto", "repeatable"), ("auto", "invariant")]:
        out = allreduce(rows[rank], algorithm=name, order=order)
        assert np.abs(out - exact).max(initial=0) < 1e-5, (name, order, elements)
        assert name == "mpi" or len(set(world.allgather(out.tobytes()))) == 1, (name, order, elements)
shared = allreduce_buffer(1003)
shared[:] = rank
assert (allreduce(shared, out=shared) == sum(range(p))).all()
if rank == 0:
    print(f"{p} ranks on {len(set(places))} nodes, {comm.library()}: right", flush=True)
