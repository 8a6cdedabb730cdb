"""A whole acceptance run: config → plan → run → judge → report, alone or as rank 0 of an MPI world.

Started alone, this process drives the launcher `slurm` in an allocation, else `mpiexec`. Started on every rank by
mpiexec or srun, rank 0 drives the launcher `inline`, the others serve it, and all exit with the same status.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhpc.acceptance.config import bundled, load
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.plan import Plan
from pyhpc.acceptance.report import EXIT_STATUS, Report, load_run, make_report, write_outputs
from pyhpc.errors import ConfigError, PyhpcError, RunError

if TYPE_CHECKING:
    from pyhpc.acceptance.place import Place

WRONG_USAGE, INCOMPLETE = 2, EXIT_STATUS["INCOMPLETE"]


def status_of(error: PyhpcError) -> int:
    """The exit status of a run that ended with this error."""
    return WRONG_USAGE if isinstance(error, ConfigError) else INCOMPLETE


def reproduce(plan: Plan) -> str:
    """The command that runs the same plan again."""
    ranks, hosts = plan.ranks or plan.nodes, ",".join(plan.hosts)
    by_srun = plan.machine.environment.get("SLURM_STEP_NUM_TASKS") == str(ranks)
    start = {
        "inline": f"srun --ntasks={ranks} --nodelist={hosts} " if by_srun else f"mpiexec -n {ranks} ",
        "slurm": f"salloc --exclusive --no-kill --nodelist={hosts} ",
    }.get(plan.launcher, "")
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
        plan = plan.model_copy(update={"created": stored.plan.created, "hosts": stored.plan.hosts})
    verdicts = judge(plan, stored.measurements)
    return make_report(plan, stored.measurements, verdicts, folder, reproduce(plan), stored.damaged)


def plan_of(suite: str, ranks: int | None) -> Plan:
    """The plan of a run that this process would drive."""
    from pyhpc.acceptance.place import alone

    return alone(ranks).plan(suite)


def accept(suite: str, out: Path | None, resume: Path | None, ranks: int | None) -> int:
    """Run, judge, report; returns the exit status, the same on every rank."""
    from pyhpc import comm
    from pyhpc.acceptance.launchers import inline
    from pyhpc.acceptance.place import alone, of_world, started_alone

    if started_alone():
        with _terminable():
            return _drive(suite, out, resume, alone(ranks))
    launch = comm.launch()
    if comm.absence() is not None and launch is not None and launch.rank > 0:
        return INCOMPLETE  # rank 0 says why, once
    world = comm.world()
    place = of_world(world)
    if world.Get_rank() != 0:
        return inline.serve(world)
    status = INCOMPLETE
    try:
        with _terminable():
            status = _drive(suite, out, resume, place)
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


def _drive(suite: str, out: Path | None, resume: Path | None, place: Place) -> int:
    """The run on the process that drives it."""
    from pyhpc.acceptance.formats.text import render
    from pyhpc.acceptance.launchers.launcher import launcher
    from pyhpc.acceptance.progress import Watch
    from pyhpc.acceptance.run import prepare, run

    if resume is None:
        plan = place.plan(suite)
        folder = out or Path(time.strftime(f"pyhpc-run-{plan.suite}-%Y%m%dT%H%M%SZ", time.gmtime()))
        prepare(plan, folder)
    else:
        folder = resume
        plan = load_run(folder).plan
        _refuse_other_place(plan, place)
    try:
        with Watch(plan) as watch:
            run(plan, folder, launcher(place.launcher), watch)
        report = report_of(folder)
        write_outputs(report, folder)
    except KeyboardInterrupt:
        print(
            f"pyhpc: INCOMPLETE: interrupted; go on with: pyhpc accept --resume {folder}", file=sys.stderr, flush=True
        )
        if place.launcher == "inline":
            raise
        return INCOMPLETE
    print(render(report), end="", flush=True)
    return EXIT_STATUS[report.answer]


def _refuse_other_place(plan: Plan, place: Place) -> None:
    """A run is resumed where and how it was started, or its records would be of different machines.

    Raises:
        RunError: it was started elsewhere or otherwise.
    """
    import pyhpc

    here: dict[str, Any] = {
        "launcher": place.launcher,
        "nodes": " ".join(place.hosts),
        "number of ranks": place.ranks if place.launcher == "inline" else plan.ranks,
        "processor": place.machine.processor,
        "version": pyhpc.__version__,
    }
    there = (plan.launcher, " ".join(plan.hosts), plan.ranks, plan.machine.processor, plan.pyhpc_version)
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
