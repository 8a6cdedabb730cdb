"""Launcher `slurm`: `pyhpc accept` was started once in a Slurm allocation; each step is an srun over all its nodes.

    srun --nodes=N --ntasks=R --ntasks-per-node=R/N --cpus-per-task=THREADS ... worker JOB.json

So each step gets the ranks and cores it asks for, and a step that hangs or is killed ends alone: the run goes on.
Before anything is planned, `survey` asks every node what it is, as the process that drives the run may stand on a login
node. The run folder and Python must be on a file system that all nodes share.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pyhpc import comm
from pyhpc.acceptance.launchers.job import Progress, run_job
from pyhpc.acceptance.launchers.launcher import Launcher
from pyhpc.acceptance.plan import Step
from pyhpc.errors import RunError
from pyhpc.machine import Machine, probe
from pyhpc.measure.measurement import Measurement, Record
from pyhpc.native import child_command

_SURVEY_SECONDS = 300.0  # for all nodes to start Python from a shared file system and answer

# srun cuts lines after 1024 bytes and mixes the tasks' parts: a short line, written at once, says whose part it is.
_MARK, _PIECE = " pyhpc ", 200


class Node(Record):
    """What one node of the allocation says of itself."""

    machine: Machine
    mpi: str | None  # the MPI library's own name; None: there is none


@dataclass(frozen=True)
class Allocation:
    """The nodes of the job, which are alike."""

    hosts: tuple[str, ...]
    machine: Machine  # the first node's
    mpi: str | None


def _absence() -> str | None:
    if "SLURM_JOB_ID" not in os.environ:
        return "this process is in no Slurm allocation"
    return None if shutil.which("srun") else "there is no srun on PATH"


def _srun(nodes: int, tasks: int, *options: str) -> list[str]:
    """`tasks` spread evenly over `nodes`. Whatever decides is said, as srun takes the rest from the environment."""
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={tasks}",
        f"--ntasks-per-node={tasks // nodes}",
        "--distribution=block",
        "--overlap",  # this process may be a step itself (srun --pty bash), which holds the cores
        "--kill-on-bad-exit=1",  # a rank that dies must not leave the others waiting in a collective
        *options,
    ]


def _number_of_nodes() -> int:
    return int(os.environ["SLURM_JOB_NUM_NODES"])


def _cores_of_a_node() -> int:
    """CPUs of the job on its smallest node; SLURM_JOB_CPUS_PER_NODE is such as "128(x3),64"."""
    return min(int(part) for part in re.sub(r"\(x\d+\)", "", os.environ["SLURM_JOB_CPUS_PER_NODE"]).split(","))


@functools.cache
def survey() -> Allocation:
    """Ask every node of the allocation what it is.

    Raises:
        RunError: a node does not answer, or is not like the others; the sentence names it.
    """
    nodes = _number_of_nodes()
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_CPUS_PER_TASK")}
    words = _srun(nodes, nodes, "--cpu-bind=none", "--mpi=none")
    try:
        done = subprocess.run(
            [*words, *child_command("pyhpc.acceptance.launchers.slurm")],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SURVEY_SECONDS,
            check=False,
        )
        found = _read(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValidationError) as error:
        raise RunError(f"the nodes of the allocation cannot be asked what they are: {error}") from error
    if done.returncode or len(found) != nodes:
        told = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise RunError(f"{len(found)} of {nodes} nodes answered (srun ended with status {done.returncode}): {told}")
    return _alike(found)


def _read(output: str) -> list[Node]:
    """The nodes that `main` printed, piece by piece."""
    texts: dict[str, str] = {}
    for task, mark, piece in (line.partition(_MARK) for line in output.splitlines()):
        if mark:
            texts[task] = texts.get(task, "") + piece
    return [Node.model_validate_json(text) for text in texts.values()]


def _alike(found: list[Node]) -> Allocation:
    """The allocation, if its nodes are alike: the plan is made for one of them."""
    found = sorted(found, key=lambda node: node.machine.host)
    kinds: dict[str, list[str]] = {}
    for node in found:
        machine = node.machine
        kind = f"{machine.processor}, {machine.cores} cores, {len(machine.gpus)} GPUs, {node.mpi or 'no MPI'}"
        kinds.setdefault(kind, []).append(machine.host)
    if len(kinds) > 1:
        *odd, (usual, _) = sorted(kinds.items(), key=lambda entry: len(entry[1]))
        told = "; ".join(f"{', '.join(hosts)}: {kind}" for kind, hosts in odd)
        raise RunError(f"the nodes are not alike, and a plan is for nodes that are: most have {usual}, but {told}")
    return Allocation(tuple(node.machine.host for node in found), found[0].machine, found[0].mpi)


def _start(step: Step) -> tuple[list[str], dict[str, str]]:
    """srun for a step, and variables for it."""
    nodes, options = _number_of_nodes(), []
    fits = step.ranks // nodes * step.threads <= _cores_of_a_node()
    if fits:
        options += [f"--cpus-per-task={step.threads}", "--cpu-bind=cores"]
    else:
        options += ["--cpus-per-task=1", "--overcommit", "--cpu-bind=none"]
    kind = comm.slurm_mpi(survey().mpi or "")
    if kind and "SLURM_MPI_TYPE" not in os.environ:
        options.append(f"--mpi={kind}")
    return _srun(nodes, step.ranks, *options), {} if fits else comm.yielding_environment()


def launch(step: Step, attempt: int, folder: Path, progress: Progress) -> list[Measurement]:
    """Run one attempt of one step on all nodes of the allocation."""
    return run_job(step, attempt, folder, progress, _start(step))


def main() -> None:
    """What `survey` runs on each node."""
    text = Node(machine=probe(), mpi=comm.library_at_rest()).model_dump_json()
    for start in range(0, len(text), _PIECE):
        line = f"{os.environ['SLURM_PROCID']}{_MARK}{text[start : start + _PIECE]}\n"
        os.write(1, line.encode())  # print writes the end of line apart where Python does not buffer


LAUNCHER = Launcher(
    name="slurm",
    summary="started once in a Slurm allocation: each step is an srun over all its nodes, with its own timeout",
    absence=_absence,
    launch=launch,
)
