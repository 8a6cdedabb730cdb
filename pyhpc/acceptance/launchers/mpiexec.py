"""Launcher `mpiexec`: `pyhpc accept` was started alone; each step is a job of its own with its own timeout.

A step of one rank is a plain child process, so that a machine without MPI still measures its kernels; a step of several
ranks is started by mpiexec. A crash, a hang or a kill ends that job only, and the rank that caused it is named.
"""

from __future__ import annotations

from pathlib import Path

from pyhpc.acceptance.launchers.job import Progress, run_job
from pyhpc.acceptance.launchers.launcher import Launcher
from pyhpc.acceptance.plan import Step
from pyhpc.measure.measurement import Measurement


def _start(step: Step) -> tuple[list[str], dict[str, str]]:
    if step.ranks == 1:
        return [], {}
    from pyhpc import comm

    return comm.mpiexec_command(step.ranks), comm.mpiexec_environment(step.ranks)


def launch(step: Step, attempt: int, folder: Path, progress: Progress) -> list[Measurement]:
    """Run one attempt of one step as a job of its own."""
    return run_job(step, attempt, folder, progress, _start(step))


LAUNCHER = Launcher(
    name="mpiexec",
    summary="started alone: each step is a job of its own (mpiexec for several ranks), with its own timeout",
    absence=lambda: None,
    launch=launch,
)
