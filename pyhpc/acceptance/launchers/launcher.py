"""What a launcher is: how a step becomes processes, and how a dead, hung or failed one becomes an error record.

A launcher is one file of this folder that defines `LAUNCHER`; the folder listing is the registry.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyhpc.acceptance import records
from pyhpc.acceptance.plan import Step
from pyhpc.acceptance.worker import FAILED, FINISHED, PHASES, Job
from pyhpc.errors import ConfigError
from pyhpc.measure.measurement import Measurement, Subject
from pyhpc.registry import members


@dataclass(frozen=True)
class Launcher:
    """One way to run a step.

    `launch(step, attempt, folder, progress)` measures all cases of `step`, calls `progress(rank, case, phase)` now and
    then, and returns the records, with error records for what ended badly. It raises only if the run cannot go on.
    """

    name: str
    summary: str
    absence: Callable[[], str | None]  # why it cannot be used here, or None
    launch: Callable[[Step, int, Path, Callable[[int, str, str], None]], list[Measurement]]


# How MPICH's hydra and Open MPI's prterun name a process that ended badly.
_CULPRITS = (
    re.compile(r"PID (?P<pid>\d+) RUNNING AT (?P<host>\S+)"),
    re.compile(r"rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+)"),
)
# How srun does, for one rank or "0,2-3"; it ends the others after that and names them too. Then a node that is lost.
_TASKS = re.compile(r"srun: error: \S+: tasks? (?P<ranks>[\d,-]+): (?P<end>.+)")
_NODE = re.compile(r"srun: error: Node failure on (?P<host>\S+)")
_CHATTER = ("srun: ", "slurmstepd")  # what follows the last words of a task


def _blamed(output: str, unfinished: dict[int, dict[str, object]], how: str) -> dict[int, str]:
    """The ranks that failed by their own word, else those that the MPI launcher names, and how they ended."""
    failed = [rank for rank, state in unfinished.items() if state.get("phase") == FAILED]
    if failed:
        return dict.fromkeys(failed, how)
    blamed: dict[int, str] = {}
    for match in (match for pattern in _CULPRITS for match in pattern.finditer(output)):
        found = match.groupdict()
        for rank, state in unfinished.items():
            if found.get("rank") == str(rank) or (found.get("pid") and found["pid"] == str(state.get("pid"))):
                blamed[rank] = how
    if lost := _NODE.search(output):
        return {rank: "was lost with its node" for rank, state in unfinished.items() if state.get("host") == lost[1]}
    if first := _TASKS.search(output):
        blamed |= {rank: f"ended ({first['end']})" for rank in _ranks(first["ranks"]) if rank in unfinished}
    return dict(sorted(blamed.items()))


def _ranks(text: str) -> Iterator[int]:
    """The numbers of "0,2-3"."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _behind(step: Step, unfinished: dict[int, dict[str, object]]) -> list[int]:
    """The ranks furthest behind: the others wait for them, in a collective or for the end of the step."""
    order = [case.name for case in step.cases]
    reached = {
        rank: (order.index(str(state["case"])), PHASES.index(str(state["phase"])))
        if state.get("case") in order
        else (-1, 0)
        for rank, state in unfinished.items()
    }
    return sorted(rank for rank, progress in reached.items() if progress == min(reached.values()))


def _sentence(step: Step, rank: int, state: dict[str, object], how: str) -> str:
    """What is known of a culprit; an empty `how` says that the job ended around it for no reason that it gave."""
    if not state:
        return f"rank {rank} {how or 'was ended'} before it started to measure step {step.name}"
    doing = f"while {state['phase']} {state['case']}" if state.get("case") else f"after {state['phase']}"
    if state["phase"] == FAILED:
        doing = f"after it failed in {state['case']}"
    return f"rank {rank} on {state['host']} (pid {state['pid']}) {how or 'was ended'} {doing} in step {step.name}"


def error_records(
    job: Job, how: str, output: str, done: list[Measurement], launcher_ended: bool = False
) -> list[Measurement]:
    """One error record for each case that a culprit still owed when the job ended badly.

    `how` continues the sentence "rank 1 on node7 ..."; `output` is what the job printed; `done` what it recorded;
    `launcher_ended`: it is the process that started the ranks whose end is known.
    """
    step = job.step
    said = records.states(Path(job.folder))
    unfinished = {rank: said.get(rank, {}) for rank in range(step.ranks) if said.get(rank, {}).get("phase") != FINISHED}
    lines = [line for line in output.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_CHATTER)] or ([] if said else lines)
    last = "".join(told[-1:])[:300]
    found: list[Measurement] = []
    # What a launcher says when it is stopped is of all ranks alike.
    blamed = _blamed(output if launcher_ended else "", unfinished, how)
    for rank in blamed or _behind(step, unfinished):
        state = unfinished[rank]
        if step.ranks > 1 and not blamed and launcher_ended:
            sentence = f"the MPI launcher {how} and named no rank; {_sentence(step, rank, state, '')}"
        else:
            sentence = _sentence(step, rank, state, blamed.get(rank, how))
        sentence += f"; printed last: {last}" if last and (step.ranks == 1 or not state) else ""
        measured = {m.case for m in done if step.collective or m.subject.rank == rank}
        found += [
            Measurement(
                step=step.name,
                case=case.name,
                kernel=case.kernel,
                variant=case.variant,
                problem=case.problem,
                subject=Subject(rank=rank, host=str(state.get("host", "")), pid=int(str(state.get("pid", 0)))),
                attempt=job.attempt,
                ranks=step.ranks if step.collective else 1,
                ceilings=case.ceilings,
                error=sentence,
                finished=time.time(),
            )
            for case in step.cases
            if case.skip is None and case.name not in measured
        ]
    return found


@functools.cache
def launchers() -> dict[str, Launcher]:
    """Every launcher of this folder by name."""
    return members("pyhpc.acceptance.launchers", "LAUNCHER")


def launcher(name: str) -> Launcher:
    """The launcher called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in launchers():
        raise ConfigError(f"there is no launcher {name!r}; there are {', '.join(launchers())}")
    return launchers()[name]
