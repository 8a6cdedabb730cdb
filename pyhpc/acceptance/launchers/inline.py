"""Launcher `inline`: `pyhpc accept` was started on every rank by mpiexec or srun; steps are phases of that world.

Rank 0 drives, the others serve: they wait for a job, take part in it, and hand their records back. A rank that hangs
cannot be taken out of a running world, so when a step's time is up rank 0 writes the error records that name it and
aborts the world; `--resume` goes on behind that step. The run folder must be on a file system that all nodes share.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyhpc.acceptance import records
from pyhpc.acceptance.launchers.launcher import Launcher, error_records
from pyhpc.acceptance.plan import Step
from pyhpc.acceptance.worker import Job, measure_step
from pyhpc.measure.measurement import Measurement

_POLL_SECONDS = 0.2
_INCOMPLETE = 3
_FORWARDING_SECONDS = 0.5  # mpiexec forwards only what it has read when the abort reaches it


def _members(world: Any, ranks: int) -> Any:
    """The communicator of a step's ranks, spread evenly over the nodes, or None on ranks that do not take part."""
    from pyhpc import comm

    local = comm.local_rank(world)
    nodes = world.allreduce(int(local == 0))
    return comm.split(world, member=local < -(-ranks // nodes))


def _take_part(job: Job, world: Any) -> list[Measurement]:
    """This rank's share of a job; rank 0 gets everybody's records."""
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    members = _members(world, job.step.ranks)
    kept: list[Measurement] = []
    if members is not None:
        try:
            kept = measure_step(job, members, members.Get_rank(), members.Get_size())
        except BaseException as error:
            print(f"pyhpc: {error}", file=sys.stderr, flush=True)
            world.Abort(_INCOMPLETE)
        members.Free()
    gathered = world.gather([measurement.model_dump_json() for measurement in kept])
    return [Measurement.model_validate_json(line) for lines in gathered or [] for line in lines]


def serve(world: Any) -> int:
    """What every rank but 0 does: take part in jobs until rank 0 sends the exit status, which is returned."""
    while True:
        message = world.bcast(None)
        if isinstance(message, int):
            return message
        _take_part(Job.model_validate_json(message), world)


def dismiss(world: Any, status: int) -> None:
    """End `serve` on the other ranks; they exit with the same status."""
    world.bcast(status)


def _watch(job: Job, world: Any, done: threading.Event, progress: Callable[[int, str, str], None]) -> None:
    """On rank 0: report progress, and end the world when the step's time is up."""
    folder = Path(job.folder)
    for _ in range(int(job.step.timeout_seconds / _POLL_SECONDS)):
        if done.wait(_POLL_SECONDS):
            return
        for rank, state in records.states(folder).items():
            progress(rank, str(state["case"]), str(state["phase"]))
    kept = [m for path in sorted(folder.glob("rank-*.jsonl")) for m in records.read(path)[0]]
    how = f"had not finished after {job.step.timeout_seconds:g} s"
    failed = error_records(job, how, "", kept)
    for measurement in kept + failed:
        records.append(folder.parents[1] / records.RECORDS, measurement)
    said = sorted({str(measurement.error) for measurement in failed})
    said.append(f"INCOMPLETE; go on with: pyhpc accept --resume {folder.parents[1]}")
    sys.stderr.write("".join(f"pyhpc: {sentence}\n" for sentence in said))
    sys.stderr.flush()
    time.sleep(_FORWARDING_SECONDS)
    world.Abort(_INCOMPLETE)


def launch(step: Step, attempt: int, folder: Path, progress: Callable[[int, str, str], None]) -> list[Measurement]:
    """Run one attempt of one step in the world this process was started in (called on rank 0)."""
    from pyhpc import comm

    world = comm.world()
    for state in folder.glob("rank-*.state"):
        state.unlink()  # what a killed run said no longer holds
    job = Job(
        step=step,
        attempt=attempt,
        folder=str(folder),
        mpi=True,
        driver_host=socket.gethostname(),
        driver_pid=os.getpid(),
    )
    world.bcast(job.model_dump_json())
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(job, world, done, progress), daemon=True)
    watch.start()
    try:
        return _take_part(job, world)
    finally:
        done.set()
        watch.join()


def _absence() -> str | None:
    from pyhpc import comm

    return None if comm.launched() else "this process was not started by mpiexec or srun"


LAUNCHER = Launcher(
    name="inline",
    summary="started on every rank by mpiexec or srun: steps are phases of that world",
    absence=_absence,
    launch=launch,
)
