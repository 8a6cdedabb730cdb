"""All-reduce across ranks, every algorithm beside MPI_Allreduce; and the local reduction of one process beside NumPy.

    mpiexec -n 2 pytest benchmarks/bench_allreduce.py --benchmark-only

Started without mpiexec only the local reductions run. A round's time is the slowest rank's (closing table, extra_info).
"""

from __future__ import annotations

from pyhpc.comm import channel, launch
from pyhpc.kernels.allreduce_problem import AllreduceProblem

KERNEL = "allreduce"

RANKS = channel().ranks if launch() else 2
PROBLEMS = [AllreduceProblem(size // 4, "float32", "sum", RANKS) for size in (8, 8 << 10, 1 << 20, 16 << 20)]


def test_allreduce(measure, contestant):
    measure(contestant)
