"""One rank of one step: measures its cases, writes each record down before it goes on, and says what it is doing.

    pyhpc.native.child_command("pyhpc.acceptance.worker") JOB.json      started by a launcher, alone or under mpiexec

Each rank owns two files in the step's folder: `rank-<r>.jsonl`, its records, and `rank-<r>.state`, who it is and what
it is doing, from which the driver names a rank that died or hangs.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pyhpc import comm as mpi
from pyhpc.acceptance import records
from pyhpc.acceptance.fault import from_environment
from pyhpc.acceptance.plan import Case, Step
from pyhpc.acceptance.workloads.workload import Context, Workload, workload
from pyhpc.errors import MeasurementError, PyhpcError
from pyhpc.home import home_of
from pyhpc.measure.measurement import Measurement, Record, Subject

PHASES = ("preparing", "verifying", "sampling")  # of a case, in order
FINISHED, FAILED = "finished", "failed"  # the last phases of a rank


class Job(Record):
    """What a launcher hands to its workers."""

    step: Step
    attempt: int
    folder: str  # of this step and attempt
    mpi: bool  # whether the workers form an MPI world
    driver_host: str
    driver_pid: int


class Rank:
    """This process's place in the step, and its two files."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.subject = Subject(
            rank=rank, host=mpi.node_name(), pid=os.getpid(), cores=tuple(sorted(os.sched_getaffinity(0)))
        )
        self._lock = threading.Lock()

    def say(self, phase: str, case: str = "") -> None:
        """Write down what this rank is doing."""
        state = {
            "rank": self.rank,
            "host": self.subject.host,
            "pid": self.subject.pid,
            "case": case,
            "phase": phase,
            "since": time.time(),
        }
        path = self.folder / f"rank-{self.rank}.state"
        temporary = path.with_suffix(".new")
        with self._lock:
            temporary.write_text(json.dumps(state))
            temporary.replace(path)

    def keep(self, measurement: Measurement) -> None:
        """Write down a record."""
        records.append(self.folder / f"rank-{self.rank}.jsonl", measurement)


def measure_case(kind: Workload, case: Case, context: Context, local_rank: int = 0) -> Measurement | None:
    """One case on this rank; an exception becomes an error record that names the rank and its GPU."""
    started = time.time()
    try:
        context.phase("preparing")
        context = context.at(home_of(case.device, local_rank))
        context.fault.at_case(case.name)
        return kind.measure(case, context)
    except MemoryError as error:
        reason = f"out of memory ({error})" if str(error) else "out of memory"
    except PyhpcError as error:
        reason = str(error)
    except Exception as error:  # a bug or an injected fault must not lose the other cases
        reason = f"{type(error).__name__}: {error}"
    sentence = f"{context.subject} failed in {case.name}: {reason}"
    return context.measurement(case, ranks=context.ranks, error=sentence, started=started, finished=time.time())


def measure_step(job: Job, comm: Any | None, rank: int, ranks: int) -> list[Measurement]:
    """Every case of the step, on this rank; returns the records that this rank keeps.

    Raises:
        MeasurementError: a failure inside a collective; the other ranks wait in it, so the caller must abort them.
    """
    kind = workload(job.step.workload)
    kept: list[Measurement] = []
    here = Rank(Path(job.folder), rank)
    fault = from_environment(rank, job.step.name)
    local_rank = 0 if comm is None else mpi.local_rank(comm)
    for case in job.step.cases:
        if case.skip:
            continue
        context = Context(
            step=job.step,
            attempt=job.attempt,
            subject=here.subject,
            ranks=ranks if job.step.collective else 1,
            comm=comm,
            phase=functools.partial(here.say, case=case.name),
            fault=fault,
        )
        measurement = measure_case(kind, case, context, local_rank)
        if measurement is not None:
            here.keep(measurement)
            kept.append(measurement)
            if job.step.collective and measurement.error is not None and ranks > 1:
                here.say(FAILED, case.name)
                raise MeasurementError(measurement.error)
    here.say(FINISHED)
    return kept


def _follow(job: Job, parent: int) -> None:
    """End with the driver and with the MPI launcher: a worker that outlives them would disturb the resumed run."""
    here = socket.gethostname() == job.driver_host
    while os.getppid() == parent:
        time.sleep(0.5)
        if here:
            try:
                os.kill(job.driver_pid, 0)
            except ProcessLookupError:
                break
    os._exit(1)


def main() -> None:
    """Entry point of a worker process."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text())
    threading.Thread(target=_follow, args=(job, os.getppid()), daemon=True).start()
    if not job.mpi:
        measure_step(job, None, 0, 1)
        return
    world = mpi.world()
    try:
        measure_step(job, world, world.Get_rank(), world.Get_size())
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        world.Abort(1)
