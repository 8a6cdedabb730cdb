"""A whole acceptance run: config → plan → run → judge → report, alone or as rank 0 of an MPI world.

Started alone, this process drives the launcher `mpiexec`. Started on every rank by mpiexec or srun, rank 0 drives the
launcher `inline`, the others serve it, and all exit with the same status.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyhpc.acceptance.config import bundled, load
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.plan import Plan
from pyhpc.acceptance.report import EXIT_STATUS, Report, load_run, make_report, write_outputs
from pyhpc.errors import ConfigError, PyhpcError, RunError

WRONG_USAGE, INCOMPLETE = 2, EXIT_STATUS["INCOMPLETE"]


def status_of(error: PyhpcError) -> int:
    """The exit status of a run that ended with this error."""
    return WRONG_USAGE if isinstance(error, ConfigError) else INCOMPLETE


def reproduce(plan: Plan) -> str:
    """The command that runs the same plan again."""
    ranks = plan.ranks or plan.nodes
    start = f"mpiexec -n {ranks} " if plan.launcher == "inline" else ""
    wanted = f" --ranks {plan.ranks}" if plan.ranks and plan.launcher != "inline" else ""
    own = plan.suite in bundled() and str(bundled()[plan.suite]) == plan.suite_path
    return f"{start}pyhpc accept {shlex.quote(plan.suite if own else plan.suite_path or plan.suite)}{wanted}"


def report_of(folder: Path, suite: str | None = None) -> Report:
    """Judge a stored run, by its own limits or by those of another suite.

    Raises:
        RunError: there is no readable run in `folder`.
        ConfigError: the other suite cannot be used.
    """
    stored = load_run(folder)
    plan = stored.plan
    if suite is not None:
        from pyhpc.acceptance.planner import make_plan

        plan = make_plan(load(suite), plan.machine, plan.launcher, plan.nodes, plan.ranks, measured=plan)
        plan = plan.model_copy(update={"created": stored.plan.created})
    verdicts = judge(plan, stored.measurements)
    return make_report(plan, stored.measurements, verdicts, folder, reproduce(plan), stored.damaged)


def plan_of(suite: str, ranks: int | None, nodes: int = 1, launcher: str = "mpiexec") -> Plan:
    """The plan for this machine."""
    from pyhpc.acceptance.planner import make_plan
    from pyhpc.machine import probe

    return make_plan(load(suite), probe(), launcher, nodes, ranks)


def accept(suite: str, out: Path | None, resume: Path | None, ranks: int | None) -> int:
    """Run, judge, report; returns the exit status, the same on every rank."""
    from pyhpc import comm

    launch = comm.launch()
    if launch is None or launch.ranks == 1:
        with _terminable():
            return _drive(suite, out, resume, ranks, nodes=1, launcher_name="mpiexec")
    from pyhpc.acceptance.launchers import inline

    world = comm.world()
    nodes = world.allreduce(int(comm.local_rank(world) == 0))
    if world.Get_rank() != 0:
        return inline.serve(world)
    status = INCOMPLETE
    try:
        with _terminable():
            status = _drive(suite, out, resume, world.Get_size(), nodes, "inline")
    except PyhpcError as error:
        print(f"pyhpc: {error}", file=sys.stderr)
        status = status_of(error)
    except KeyboardInterrupt:
        world.Abort(INCOMPLETE)
    except BaseException:
        # The others wait for the next job: whatever this is, they must not wait for ever.
        sys.excepthook(*sys.exc_info())
        world.Abort(INCOMPLETE)
    inline.dismiss(world, status)
    return status


def _drive(suite: str, out: Path | None, resume: Path | None, ranks: int | None, nodes: int, launcher_name: str) -> int:
    """The run on the process that drives it."""
    from pyhpc.acceptance.formats.text import render
    from pyhpc.acceptance.launchers.launcher import launcher
    from pyhpc.acceptance.progress import Watch
    from pyhpc.acceptance.run import prepare, run

    if resume is None:
        plan = plan_of(suite, ranks, nodes, launcher_name)
        folder = out or Path(time.strftime(f"pyhpc-run-{plan.suite}-%Y%m%dT%H%M%SZ", time.gmtime()))
        prepare(plan, folder)
    else:
        folder = resume
        plan = load_run(folder).plan
        _refuse_other_place(plan, nodes, ranks, launcher_name)
    try:
        with Watch(plan) as watch:
            run(plan, folder, launcher(launcher_name), watch)
        report = report_of(folder)
        write_outputs(report, folder)
    except KeyboardInterrupt:
        print(
            f"pyhpc: INCOMPLETE: interrupted; go on with: pyhpc accept --resume {folder}", file=sys.stderr, flush=True
        )
        if launcher_name == "inline":
            raise
        return INCOMPLETE
    print(render(report), end="", flush=True)
    return EXIT_STATUS[report.answer]


def _refuse_other_place(plan: Plan, nodes: int, ranks: int | None, launcher_name: str) -> None:
    """A run is resumed where and how it was started, or its records would be of different machines.

    Raises:
        RunError: it was started elsewhere or otherwise.
    """
    import pyhpc
    from pyhpc.machine import probe

    here: dict[str, Any] = {
        "launcher": launcher_name,
        "number of nodes": nodes,
        "number of ranks": ranks if launcher_name == "inline" else plan.ranks,
        "processor": probe().processor,
        "version": pyhpc.__version__,
    }
    there = (plan.launcher, plan.nodes, plan.ranks, plan.machine.processor, plan.pyhpc_version)
    for (name, now), then in zip(here.items(), there, strict=True):
        if now != then:
            raise RunError(
                f"this run was started with {name} {then!r} and cannot go on with {now!r}: {reproduce(plan)}"
            )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM (a batch system's last word) end the run as Ctrl-C does: workers stopped, records safe."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
