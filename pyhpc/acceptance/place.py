"""Where a run stands: which nodes, what they are, and by which launcher its steps get there.

Started on every rank by mpiexec or srun, the steps are phases of that world. Started once in a Slurm allocation, each
step is an srun over its nodes; anywhere else, a job on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyhpc import comm
from pyhpc.acceptance.config import load
from pyhpc.acceptance.plan import Plan
from pyhpc.machine import Machine, probe


@dataclass(frozen=True)
class Place:
    """The nodes of a run."""

    launcher: str
    hosts: tuple[str, ...]  # as Slurm or the machine names them
    machine: Machine  # one of the nodes; they are alike
    ranks: int | None  # what "cores" means, over all nodes; None: every core

    def plan(self, suite: str) -> Plan:
        """What a run of `suite` (a file or a bundled suite's name) would do here.

        Raises:
            ConfigError: the suite cannot be used.
        """
        from pyhpc.acceptance.planner import make_plan

        plan = make_plan(load(suite), self.machine, self.launcher, len(self.hosts), self.ranks)
        return plan.model_copy(update={"hosts": self.hosts})


def started_alone() -> bool:
    """Whether this process is no rank of a larger world."""
    launch = comm.launch()
    return launch is None or launch.ranks == 1


def alone(ranks: int | None) -> Place:
    """The place of a run that this one process drives.

    Raises:
        RunError: the nodes of a Slurm allocation do not answer, or are not alike.
    """
    from pyhpc.acceptance.launchers import slurm

    if slurm.LAUNCHER.absence() is None:
        nodes = slurm.survey()
        return Place("slurm", nodes.hosts, nodes.machine, ranks)
    return Place("mpiexec", (comm.node_name(),), probe(), ranks)


def of_world(world: Any) -> Place:
    """The place of a run on this world. Collective."""
    here = comm.place(world)
    names = world.allgather((here.host, here.local_rank))
    return Place("inline", tuple(host for host, local in names if local == 0), probe(), world.Get_size())
