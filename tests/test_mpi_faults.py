"""Ranks that never call, or die in the middle: every other rank gets an error that names them, in time."""

from __future__ import annotations

import re

import pytest

from pyhpc import comm

# Each rank writes into a file of its own: the mpiexec of MPICH passes nothing on after a rank was killed.
PROGRAM = """
import os, signal, sys, time
import numpy as np
from pyhpc import allreduce, allreduce_buffer, comm
from pyhpc.errors import PyhpcError

def say(*words):
    with open(os.path.join(sys.argv[2], str(world.rank)), "a") as file:
        print(*words, file=file)

world, fault, algorithm, odd = comm.world(), sys.argv[1], sys.argv[3], 1
files = set(os.listdir("/dev/shm"))
x, shared = np.ones(100_000), allreduce_buffer(100_000, "float64")
for _ in range(3):
    assert (allreduce(x, algorithm=algorithm) == world.size).all()
    assert (allreduce(shared) == 0).all()
world.Barrier()
say("files", sorted(set(os.listdir("/dev/shm")) - files))
world.Barrier()
if world.rank == odd and fault == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if world.rank != odd and fault == "dies_waiting":
    time.sleep(2)
if world.rank == odd and fault == "dies_waiting":
    signal.setitimer(signal.ITIMER_REAL, 1)  # its signal ends a process that handles it nowhere
if world.rank == odd and fault == "dies_within":
    import threading
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    while True:
        allreduce(x, algorithm=algorithm)
if world.rank == odd and fault == "never_calls":
    time.sleep(3)
    os._exit(0)
began, said = time.monotonic(), []
for _ in range(2):
    try:
        while True:
            result = allreduce(x, algorithm=algorithm)
            assert (result == world.size).all(), "a wrong result"
    except PyhpcError as error:
        said.append(type(error).__name__ + ": " + str(error))
say("error", round(time.monotonic() - began, 1), "again" if said[0] == said[1] else said[1], said[0])
time.sleep(1)  # a rank that ends is a fault of its own
os._exit(0)
"""


# In "direct" all ranks wait for the lost one; in others some wait for ranks that only wait themselves.
@pytest.mark.parametrize(
    ("fault", "algorithm", "ranks"),
    [
        ("never_calls", "recursive_doubling", 4),
        ("dies", "direct", 4),
        ("dies_waiting", "recursive_doubling", 2),  # for the one rank that then waits for it
        ("dies_within", "auto", 4),
    ],
)
def test_every_other_rank_gets_an_error_that_names_the_lost_one(start, tmp_path, fault, algorithm, ranks):
    program, place = tmp_path / "program.py", tmp_path / "said"
    program.write_text(PROGRAM)
    place.mkdir()
    open_mpi = comm._is_open_mpi(comm.mpiexec())
    options = ("--enable-recovery",) if open_mpi else ()
    # Where a rank dies the limit is none of the causes: a busy machine may take seconds to end it.
    limit = "1" if fault == "never_calls" else "40"
    status, output = start(ranks, [program, fault, place, algorithm], mpiexec=options, PYHPC_ALLREDUCE_TIMEOUT=limit)
    if fault != "never_calls" and not open_mpi:
        assert status != 0, output  # MPICH's mpiexec ends all ranks with the first: nobody is left to speak, or to wait
        return
    lost = r"rank 1 \(process \d+\) has"
    cause = rf"no answer for 1 s: {lost} not called" if fault == "never_calls" else rf"{lost} ended"
    sentence = re.compile(rf"^error [\d.]+ again CommunicationError: all-reduce: {cause}", re.MULTILINE)
    for rank in set(range(ranks)) - {1}:
        said = (place / str(rank)).read_text()
        assert sentence.search(said), said + output
        assert float(said.split("error ")[1].split()[0]) < 20
        assert "files []" in said
