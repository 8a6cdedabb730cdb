"""Compare contestants fairly: a process each, alternating rounds, every result verified, ceilings in the same rounds.

    for each threads, problem:   all prepare and verify;   for each round: contestants and ceilings, one after another

The order rotates from round to round, so that nobody always follows the same neighbour. OPENBLAS_CORETYPE and
OPENBLAS_L2_SIZE are taken out of the environment: they handicap the peer by as much as a factor of two.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from pyhpc.bench.comparison import Comparison, Kind, Round, Row, summarise
from pyhpc.errors import ConfigError, MeasurementError
from pyhpc.kernels.kernel import Kernel, Problem, kernels
from pyhpc.machine import probe, usable_cores
from pyhpc.native import child_command

ROUND_SECONDS = 0.2  # of sampling, for one contestant in one round
_PREPARE_SECONDS = 300.0  # a contestant that has not prepared (inputs, one run, verification) by then is killed
_SAMPLE_SECONDS = 60.0  # likewise for one round
_EXIT_SECONDS = 20.0  # for a process that closed its output to be gone
_PAUSE_SECONDS = 0.02  # after each contestant: idle threads stop spinning
_PEAK_BLOCKS = 32  # a thread: 2 to 4 ms, short enough that some samples are undisturbed, long against starting threads
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_PROC_BIND", "OMP_PLACES", "PYHPC_VARIANT")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Progress = Callable[[str], None]


def compare(
    kernel_name: str,
    problems: Sequence[Problem],
    contestants: Sequence[str],
    rounds: int = 7,
    threads: Sequence[int] = (1,),
    progress: Progress | None = None,
) -> Comparison:
    """Compare `contestants`, names of variants and peers, on every problem with every number of threads (0: all).

    "best" stands for the best own variant. A contestant that cannot run, is wrong, hangs or dies becomes a row with the
    reason; the others go on. With at least 6 rounds every figure has a 95 % confidence interval.

    Raises:
        ConfigError: an unknown kernel or contestant, no problems or rounds.
    """
    kernel = kernels().get(kernel_name)
    if kernel is None:
        raise ConfigError(f"there is no kernel {kernel_name!r}; there are {', '.join(kernels())}")
    if not problems or rounds < 1:
        raise ConfigError("a comparison needs at least one problem and one round")
    for name in contestants:
        if name != "best":
            kernel.variant(name)
    started, rows = time.time(), []
    largest_cache = max(probe().cache_bytes.values(), default=0)
    for count in threads:
        with _Field(count or usable_cores()) as field:
            for problem in problems:
                group = _group(kernel, problem, contestants, field.threads)
                rows += summarise(field.compete(group, rounds, progress), largest_cache)
    return Comparison(
        kernel=kernel_name,
        machine=probe(),
        contestants=tuple(contestants),
        rounds=rounds,
        started=started,
        finished=time.time(),
        rows=tuple(rows),
    )


def _group(kernel: Kernel, problem: Problem, contestants: Sequence[str], threads: int) -> list[Row]:
    """One empty row for each contestant, then for each ceiling."""
    peers = {peer.name for peer in kernel.peers()}
    names = [kernel.best(problem).name if name == "best" else name for name in contestants]
    rows = [_row(name, "peer" if name in peers else "ours", problem, threads) for name in dict.fromkeys(names)]
    if kernel.name not in ("peak", "memory"):
        rows += [
            _row(ceiling.kernel, "ceiling", ceiling, threads).model_copy(
                update={"problem": ceiling.to_json() | {"for": problem.label}}
            )
            for ceiling in _ceilings(problem, threads)
        ]
    return rows


def _ceilings(problem: Problem, threads: int) -> list[Problem]:
    from pyhpc.kernels import memory, peak

    return [
        peak.PeakProblem(problem.ceiling, _PEAK_BLOCKS * threads),
        memory.at_level("read", "DRAM", probe().cache_bytes, threads),
    ]


def _row(contestant: str, kind: Kind, problem: Problem, threads: int) -> Row:
    return Row(
        contestant=contestant,
        kind=kind,
        kernel=problem.kernel,
        label=problem.label,
        problem=problem.to_json(),
        threads=threads,
        flops=problem.flops,
        bytes=problem.bytes,
    )


class _Field:
    """The workers of one number of threads, started at first use and kept from problem to problem."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._workers: dict[str, _Process] = {}

    def __enter__(self) -> _Field:
        return self

    def __exit__(self, *unused: object) -> None:
        for worker in self._workers.values():
            worker.end()

    def compete(self, rows: list[Row], rounds: int, progress: Progress | None) -> list[Row]:
        """All rounds of one group; the rows with their rounds, or their error."""
        tell = progress or (lambda sentence: None)
        done = {row.contestant: row for row in rows}
        for name, row in done.items():
            tell(f"{row.label}, {self.threads} threads: {name} prepares")
            done[name] = self._prepare(row)
        for index in range(rounds):
            names = list(done)
            start = index % len(names)
            for name in names[start:] + names[:start]:
                if done[name].error is None:
                    tell(f"{done[name].label}, {self.threads} threads: round {index + 1} of {rounds}, {name}")
                    done[name] = self._sample(done[name], index)
                    time.sleep(_PAUSE_SECONDS)
        return list(done.values())

    def _prepare(self, row: Row) -> Row:
        problem = {name: value for name, value in row.problem.items() if name != "for"}
        variant = row.contestant
        if row.kind == "ceiling":
            contract = kernels()[row.kernel]
            variant = contract.best(contract.problem(problem)).name
        arguments = {"kernel": row.kernel, "variant": variant, "problem": problem, "threads": self.threads}
        return self._ask(row, {"prepare": arguments}, _PREPARE_SECONDS)

    def _sample(self, row: Row, index: int) -> Row:
        return self._ask(row, {"sample": {"index": index, "seconds": ROUND_SECONDS}}, _SAMPLE_SECONDS)

    def _ask(self, row: Row, request: dict[str, Any], limit_seconds: float) -> Row:
        worker = self._workers.get(row.contestant)
        if worker is None:
            worker = self._workers[row.contestant] = _Process(self.threads)
        try:
            answer = worker.ask(request, limit_seconds)
        except MeasurementError as error:
            del self._workers[row.contestant]  # the next problem gets a new one
            return row.model_copy(update={"error": str(error)})
        if "round" in answer:
            answer = {"rounds": (*row.rounds, Round.model_validate(answer["round"]))}
        return row.model_copy(update=answer)


class _Process:
    """One worker process."""

    def __init__(self, threads: int) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
        environment |= dict.fromkeys(_THREADS, str(threads))
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process, in `end`)
        self._process = subprocess.Popen(
            child_command("pyhpc.bench.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            bufsize=0,
        )
        if threads == 1 and len(os.sched_getaffinity(0)) > 1:
            # One thread stays where it is, and away from the first core, which takes the interrupts.
            os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})

    def ask(self, request: dict[str, Any], limit_seconds: float) -> dict[str, Any]:
        """The answer to `request`.

        Raises:
            MeasurementError: the process died or did not answer in time; it has been ended.
        """
        assert self._process.stdin is not None
        deadline = time.monotonic() + limit_seconds
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            line = self._line(deadline)
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise MeasurementError(self._epitaph(limit_seconds, late=time.monotonic() >= deadline))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self, deadline: float) -> bytes:
        """One line, or what came before the end or the deadline."""
        assert self._process.stdout is not None
        received = b""
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not part:
                break
            received += part
        return received

    def _epitaph(self, limit_seconds: float, late: bool) -> str:
        """End the process and say how it ended."""
        try:
            status = self._process.wait(timeout=0.0 if late else _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.end()
            return f"did not answer within {limit_seconds:g} s and was killed"
        self._stderr.seek(0)
        words = self._stderr.read().strip().splitlines()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        self.end()
        return f"the process {how}" + (f": {words[-1]}" if words else "")

    def end(self) -> None:
        """Kill the process if it lives, and release its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()
