"""All-reduce across ranks, every algorithm beside MPI_Allreduce; and the local reduction of one process beside NumPy.

    mpiexec -n 2 pytest benchmarks/bench_allreduce.py --benchmark-only

Started without mpiexec only the local reductions run. A round's time is the slowest rank's (closing table, extra_info).

The table against several MPIs (nccl-tests' columns, share of the memory-traffic bound, warm and cold buffers, several
launches) is `pyhpc bench allreduce --mpi LIBMPI,LIBMPI`, which this file as a program is too:

    python benchmarks/bench_allreduce.py --mpi mpich/lib/libmpi.so.12,openmpi/lib/libmpi.so.40
"""

from __future__ import annotations

from pyhpc.comm import channel, launch
from pyhpc.kernels.allreduce_problem import AllreduceProblem

KERNEL = "allreduce"

RANKS = channel().ranks if launch() else 2
PROBLEMS = [AllreduceProblem(size // 4, "float32", "sum", RANKS) for size in (8, 8 << 10, 1 << 20, 16 << 20)]


def test_allreduce(measure, contestant):
    measure(contestant)


if __name__ == "__main__":
    import sys

    from pyhpc.cli import main

    sys.argv[1:1] = ["bench", "allreduce"]  # what the launched ranks run
    main()
