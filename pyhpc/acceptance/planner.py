"""How a plan is made: `Suite` + `Machine` → `Plan`. Every decision of a run is taken here.

Decided are: the cases (alternatives multiplied out), each one's variant, the ranks and threads of each step, the order
(ceilings first, since others are judged against them), which measured ceiling bounds which case, and what cannot run
here and why. Nothing is measured; kernels are asked what they are, never run.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Any

from pyhpc.acceptance.config import METRIC_UNITS, CaseConfig, Limit, StepConfig, Suite, near
from pyhpc.acceptance.plan import Case, Plan, Step, alike, applies
from pyhpc.errors import ConfigError, Unsupported
from pyhpc.machine import Machine
from pyhpc.native import cuda_absence

if TYPE_CHECKING:
    from pyhpc.acceptance.workloads.workload import Workload
    from pyhpc.kernels.kernel import Kernel, Problem


def make_plan(
    suite: Suite,
    machine: Machine,
    launcher: str,
    nodes: int = 1,
    ranks: int | None = None,
    measured: Plan | None = None,
) -> Plan:
    """Decide everything about a run of `suite` on `nodes` nodes like `machine`.

    `ranks` is what "cores" means, summed over the nodes: the size of the MPI world for the launcher "inline" (no step
    can have more), else what the user asked for; None: every core. With `measured`, the plan of a stored run that is
    judged again by another suite, a case measured there keeps what was decided then: this may be another machine.

    Raises:
        ConfigError: the suite asks for what cannot be meant (unknown kernel, parameter, workload; a limit above the
            physical peak, on no case, or relative to a ceiling that nothing measures); file and line say where.
    """
    import pyhpc

    if nodes < 1 or (ranks is not None and ranks < nodes):
        raise ConfigError(f"{nodes} node(s) with {ranks} rank(s): there must be at least one rank on each node")
    planner = _Planner(suite, machine, launcher, nodes, ranks)
    planner.measured = {step.name: step.cases for step in measured.steps} if measured else {}
    steps = [planner.step(config) for config in suite.step]
    # Stable: within ceilings and within the rest the suite's order stays.
    steps.sort(key=lambda step: not any(case.kernel in _CEILING_KERNELS for case in step.cases))
    finished = tuple(planner.bound(step, steps) for step in steps)
    return Plan(
        suite=suite.name,
        suite_path=suite.path,
        suite_digest=suite.digest,
        launcher=launcher,
        nodes=nodes,
        ranks=ranks,
        machine=machine,
        steps=finished,
        created=time.time(),
        pyhpc_version=pyhpc.__version__,
    )


_CEILING_KERNELS = ("peak", "memory")
# No core does more per cycle: 2 × 512-bit FMA (32 flop) doubled for float64; a 16×16×64 tile of int8 in 16 cycles (2048
# operations, Intel AMX) doubled for the narrower dtypes. Meant to catch a wrong unit, not to be tight.
_OPERATIONS_PER_CYCLE = {"float64": 64, "": 4096}
_FASTEST_HERTZ = 8e9  # above any turbo clock


class _Planner:
    def __init__(self, suite: Suite, machine: Machine, launcher: str, nodes: int, ranks: int | None) -> None:
        from pyhpc.acceptance.workloads.workload import workloads
        from pyhpc.kernels.kernel import kernels

        self.suite, self.machine, self.nodes = suite, machine, nodes
        self.world = (ranks if ranks is not None else nodes) if launcher == "inline" else None
        self.measured: dict[str, tuple[Case, ...]] = {}
        self.ranks_per_node = ranks // nodes if ranks is not None else machine.cores
        self.kernels: dict[str, Kernel] = kernels()
        self.workloads: dict[str, Workload] = workloads()

    def error(self, sentence: str, line: int) -> ConfigError:
        return ConfigError(sentence, self.suite.path or None, line or None)

    def step(self, config: StepConfig) -> Step:
        """A step with its cases, without ceilings."""
        if config.workload not in self.workloads:
            raise self.error(
                f"there is no workload {config.workload!r}{near(config.workload, self.workloads)}", config.line
            )
        workload = self.workloads[config.workload]
        if config.nodes not in (None, "all" if workload.collective else "each") and self.nodes > 1:
            how = "all nodes together" if workload.collective else "each node for itself"
            raise self.error(
                f'nodes = "{config.nodes}" does not fit: workload {workload.name} measures {how}', config.line
            )
        per_node, skip, notes = self.ranks(config, workload.collective)
        threads = max(1, self.machine.cores // per_node) if config.threads == "all" else config.threads
        if per_node * threads > self.machine.cores:
            notes += (
                f"{per_node} rank(s) × {threads} thread(s) on {self.machine.cores} core(s): they will take turns",
            )
        ranks = per_node * self.nodes
        cases = tuple(case for written in config.cases for case in self.cases(config, written, ranks, threads))
        names = [case.name for case in cases]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self.error(f"step {config.name!r} has the case {twice!r} twice", config.line)
        needed = max([config.sampling.min_samples, *(limit.samples_needed for limit in config.limit)])
        return Step(
            name=config.name,
            workload=workload.name,
            nodes="all" if workload.collective else "each",
            ranks=ranks,
            threads=threads,
            timeout_seconds=config.timeout_seconds,
            cases=cases,
            limits=config.limit,
            sampling=config.sampling.model_copy(update={"min_samples": needed}),
            collective=workload.collective,
            required=config.required,
            skip=skip,
            notes=notes,
            line=config.line,
        )

    def ranks(self, config: StepConfig, collective: bool) -> tuple[int, str | None, tuple[str, ...]]:
        """Ranks on each node, why the step cannot run, and notes."""
        if config.ranks_per_node == "gpus":
            per_node = len(self.machine.gpus)
            if per_node == 0:
                return 1, f"there is no GPU here ({self.machine.gpu_absence or 'none found'})", ()
        else:
            per_node = self.ranks_per_node if config.ranks_per_node == "cores" else config.ranks_per_node
        if self.world is not None and per_node * self.nodes > self.world:
            return per_node, f"it wants {per_node * self.nodes} ranks and was started with {self.world}", ()
        if collective and per_node * self.nodes < 2:
            more = "--ranks 2 puts two on one core" if config.ranks_per_node == "cores" else "start it on more nodes"
            return per_node, f"it needs at least two ranks and here is one: {more}", ()
        return per_node, None, ()

    def cases(self, step: StepConfig, written: CaseConfig, ranks: int, threads: int) -> list[Case]:
        """The cases that one inline table stands for."""
        workload = self.workloads[step.workload]
        name = written.kernel or step.workload
        if name not in self.kernels:
            raise self.error(f"there is no kernel {name!r}{near(name, self.kernels)}", written.line)
        kernel = self.kernels[name]
        choices = [value if isinstance(value, list | tuple) else [value] for value in written.parameters.values()]
        if not all(choices):
            raise self.error("an empty list of alternatives leaves nothing to measure", written.line)
        variants = written.variant if isinstance(written.variant, tuple) else (written.variant,)
        found: list[Case] = []
        for chosen in itertools.product(*choices):
            frozen = (tuple(value) if isinstance(value, list) else value for value in chosen)
            values = dict(zip(written.parameters, frozen, strict=True))
            try:
                fitted = self.fitted(kernel, values, threads, written.device)
                for variant in variants:
                    case = self.case(workload, fitted, (kernel, variant, written.device), ranks)
                    found.append(self.as_measured(step.name, case, variant))
            except Unsupported as error:
                name = " ".join(str(value) for value in values.values())
                found.append(Case(name=name, kernel=kernel.name, variant="none", problem=values, skip=str(error)))
            except ConfigError as error:
                raise self.error(str(error), written.line) from error
        return found

    def fitted(self, kernel: Kernel, values: dict[str, Any], threads: int, device: str) -> dict[str, Any]:
        """The parameters, with sizes that should follow the machine where a ceiling's are left out.

        Raises:
            ConfigError: no such problem.
            Unsupported: the machine does not tell what the choice needs.
        """
        from pyhpc.kernels import memory, peak

        on_gpu = device == "cuda"
        if kernel.name in ("memory", "peak"):
            kernel.require_known(values)
        try:
            if kernel.name == "memory" and "footprint_bytes" not in values:
                if on_gpu:
                    return memory.on_gpu(**values).to_json()
                return memory.at_level(cache_bytes=self.machine.cache_bytes, threads=threads, **values).to_json()
            if kernel.name == "peak" and "blocks" not in values:
                return (peak.on_gpu(**values) if on_gpu else peak.saturating(threads=threads, **values)).to_json()
        except (TypeError, ValueError, KeyError) as error:
            raise ConfigError(f"kernel {kernel.name}: {error}") from error
        return values

    def case(self, workload: Workload, values: dict[str, Any], wanted: tuple[Kernel, str, str], ranks: int) -> Case:
        """One case of (kernel, variant, device), or with the reason why none runs here."""
        kernel, name, device = wanted
        if workload.decide is not None:
            decided, variant, skip = workload.decide(values, name, ranks)
            return _case(kernel.problem(decided), variant, device, skip)
        problem = kernel.problem(values)
        # Without a CUDA module the names of its variants are not known: that is no mistake of the suite.
        if device == "cuda" and (absence := cuda_absence()) is not None:
            return _case(problem, name, device, f"CUDA is absent because {absence}")
        if name != "best":
            chosen = kernel.variant(name)
            return _case(problem, chosen.name, chosen.device, chosen.reject(problem))
        try:
            return _case(problem, kernel.best(problem, device).name, device, None)
        except ConfigError as error:
            return _case(problem, "none", device, str(error))

    def as_measured(self, step: str, case: Case, wanted: str) -> Case:
        """The case as a stored run decided it, where it has it."""
        for other in self.measured.get(step, ()):
            same = other.kernel == case.kernel and other.device == case.device
            if same and (wanted == "best" or other.variant == case.variant) and alike(other.problem, case.problem):
                return other
        return case

    def bound(self, step: Step, steps: list[Step]) -> Step:
        """The step with the ceilings of its cases, and its limits checked against them."""
        cases = tuple(case.model_copy(update={"ceilings": self.ceilings(step, case, steps)}) for case in step.cases)
        for limit in step.limits:
            self.check(limit, step, cases)
        return step.model_copy(update={"cases": cases})

    def ceilings(self, step: Step, case: Case, steps: list[Step]) -> dict[str, str]:
        """metric → "step/case" of the measured physical limit with the same device and thread count."""
        if case.kernel in _CEILING_KERNELS:
            return {}
        alike = [
            (f"{other.name}/{candidate.name}", other, candidate)
            for other in steps
            if other.threads == step.threads and other.skip is None
            for candidate in other.cases
            if candidate.device == case.device and candidate.skip is None
        ]
        # Among equals, a step that loads the node with as many ranks knows the limit best.
        alike.sort(key=lambda entry: entry[1].ranks != step.ranks)
        found: dict[str, str] = {}
        if case.skip is None:
            dtype = self.kernels[case.kernel].problem(case.problem).ceiling
            for key, _, candidate in alike:
                if candidate.kernel == "peak" and candidate.problem["dtype"] == dtype:
                    found.setdefault("flops_per_second", key)
        # A copy reads and writes, as every rank of a collective must; nothing moves bytes faster than a plain read.
        size = 2 * case.message_bytes or case.bytes
        for metrics, op in ((("algbw", "busbw"), "copy"), (("bytes_per_second",), "read")):
            streams = [e for e in alike if e[2].kernel == "memory" and e[2].problem["op"] == op]
            if streams:
                key = min(streams, key=lambda entry: _misfit(entry[2].problem["footprint_bytes"], size))[0]
                found |= dict.fromkeys(metrics, key)
        return {metric: key for metric, key in found.items() if metric in self.workloads[step.workload].metrics}

    def check(self, limit: Limit, step: Step, cases: tuple[Case, ...]) -> None:
        """Refuse a limit that no number could meet, or that judges nothing.

        Raises:
            ConfigError: with the line of the limit.
        """
        metrics = self.workloads[step.workload].metrics
        if limit.metric not in metrics:
            raise self.error(
                f"workload {step.workload} does not measure {limit.metric}{near(limit.metric, metrics)}", limit.line
            )
        chosen = [case for case in cases if applies(limit, case)]
        if not chosen:
            raise self.error(f"no case of step {step.name!r} has {_where(limit)}: the limit judges nothing", limit.line)
        for case in chosen:
            if limit.of == "ceiling" and limit.metric not in case.ceilings and not case.skip:
                raise self.error(
                    f"nothing measures the ceiling of {limit.metric} for {case.name} with {step.threads} thread(s): "
                    f'add a step with kernel = "peak" or "memory" and the same threads',
                    limit.line,
                )
            peak = self.peak(limit.metric, case, step)
            smallest = (limit.at_least or 0.0) * METRIC_UNITS[limit.metric].get(limit.unit, 0.0)
            if smallest > peak:
                raise self.error(
                    f"at_least = {limit.at_least:g} {limit.unit} is above the physical peak: {step.ranks} rank(s) × "
                    f"{step.threads} thread(s) here stay below {peak / METRIC_UNITS[limit.metric][limit.unit]:.3g} "
                    f"{limit.unit} (wrong unit?)",
                    limit.line,
                )

    def peak(self, metric: str, case: Case, step: Step) -> float:
        """A generous bound of what this machine's cores can do; infinite where none is known."""
        if metric != "flops_per_second" or case.device != "cpu":
            return math.inf
        operations = _OPERATIONS_PER_CYCLE.get(str(case.problem.get("dtype")), _OPERATIONS_PER_CYCLE[""])
        return min(step.threads, self.machine.cores) * operations * _FASTEST_HERTZ


def _case(problem: Problem, variant: str, device: str, skip: str | None) -> Case:
    return Case(
        name=f"{problem.label} {variant}",
        kernel=problem.kernel,
        variant=variant,
        problem=problem.to_json(),
        device=device,
        flops=problem.flops,
        bytes=problem.bytes,
        message_bytes=getattr(problem, "message_bytes", 0),
        skip=skip,
    )


def _where(limit: Limit) -> str:
    return ", ".join(f"{key} = {value!r}" for key, value in limit.where.items())


def _misfit(footprint_bytes: int, size: int) -> tuple[bool, int]:
    """How badly a memory ceiling fits data of `size` bytes: best is the largest footprint that is not larger.

    A smaller one may live in a faster cache, which only makes the ceiling higher; a larger one would make it too low.
    """
    return footprint_bytes > size, abs(footprint_bytes - size)
