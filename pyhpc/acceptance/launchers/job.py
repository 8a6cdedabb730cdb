"""One attempt of one step as a job of its own: start it, watch it, stop it when its time is up, collect its records.

Shared by the launchers that start processes; each gives the words before the worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyhpc.acceptance import records
from pyhpc.acceptance.launchers.launcher import error_records
from pyhpc.acceptance.plan import Step
from pyhpc.acceptance.worker import Job
from pyhpc.errors import RunError
from pyhpc.measure.measurement import Measurement
from pyhpc.native import child_command

Progress = Callable[[int, str, str], None]

_GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL


def _environment(step: Step) -> dict[str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(step.threads)}
    # Another library's tuning variables would handicap whatever the worker compares itself with.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        environment.pop(name, None)
    return environment


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole job, politely first."""
    for number, wait in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):  # already gone, as wanted
            os.killpg(process.pid, number)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        return


def _wait(process: subprocess.Popen[bytes], step: Step, folder: Path, progress: Progress) -> bool:
    """Wait for the job and report its progress; False when its time was up."""
    deadline = time.monotonic() + step.timeout_seconds
    try:
        while True:
            try:
                process.wait(0.1)
                return True
            except subprocess.TimeoutExpired:
                for rank, state in records.states(folder).items():
                    progress(rank, str(state["case"]), str(state["phase"]))
                if time.monotonic() > deadline:
                    return False
    finally:
        if process.poll() is None:
            _stop(process)  # time is up, or Ctrl-C


def run_job(
    step: Step, attempt: int, folder: Path, progress: Progress, started: tuple[Sequence[str], dict[str, str]]
) -> list[Measurement]:
    """Run one attempt of one step; `started` is how: the words before the worker, and variables for it.

    Raises:
        RunError: the job cannot be started at all.
    """
    job_file, log = folder / "job.json", folder / "output.log"
    for state in folder.glob("rank-*.state"):
        state.unlink()  # what a killed run said no longer holds
    job = Job(
        step=step,
        attempt=attempt,
        folder=str(folder),
        mpi=step.ranks > 1,
        driver_host=socket.gethostname(),
        driver_pid=os.getpid(),
    )
    records.write_atomically(job_file, job.model_dump_json())
    words, variables = started
    command = [*words, *child_command("pyhpc.acceptance.worker"), str(job_file)]
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(step) | variables,
                start_new_session=True,
            )
            in_time = _wait(process, step, folder, progress)
    except OSError as error:
        raise RunError(
            f"step {step.name} cannot be started ({' '.join(command[:2])} ...): {error.strerror or error}"
        ) from error
    done: list[Measurement] = []
    for rank in range(step.ranks):  # by name: a network file system may show an old listing of the folder
        done += records.read(folder / f"rank-{rank}.jsonl")[0]
    if not in_time:
        how = f"had not finished after {step.timeout_seconds:g} s and was stopped"
    elif process.returncode != 0:
        how = f"ended with {_status(process.returncode)}"
    else:
        return done
    return done + error_records(job, how, log.read_text(errors="replace"), done, launcher_ended=in_time)


def _status(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
