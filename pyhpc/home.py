"""Where a problem's arrays live while a kernel runs on it, in main memory or on one GPU, and the clock of that place.

    home = home_of("cuda", local_rank);   task = Task(variant, problem, threads, home)
    task.clear();  task.run();  task.result()          # poison the output; run, or enqueue; the output on the host

The host's arrays are used where they are; a GPU's are copied there once, and its output back after each run, outside
the timed region. Whoever measures asks no further whether a GPU is involved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pyhpc import native
from pyhpc.device import to_device, to_host
from pyhpc.errors import Unsupported
from pyhpc.kernels.kernel import Arrays, Problem, Variant
from pyhpc.measure.clock import Clock, device_clock, host_clock


class Home(Protocol):
    """A place for arrays. `str(home)` is what `Subject.device` records."""

    @property
    def uuid(self) -> str:
        """Of the GPU; "" for main memory."""

    def put(self, array: np.ndarray) -> Any:
        """`array` where kernels of this place read and write it."""

    def write(self, array: np.ndarray, there: Any) -> None:
        """Overwrite what `put` gave with another array of its shape and dtype."""

    def read(self, there: Any) -> np.ndarray:
        """What `put` gave, on the host, after the work in flight."""

    def clock(self) -> Clock:
        """The clock of this place."""


@dataclass(frozen=True)
class Host:
    """Main memory: nothing is copied."""

    uuid: str = ""

    def __str__(self) -> str:
        return "cpu"

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def write(self, array: np.ndarray, there: np.ndarray) -> None:
        """Copy."""
        np.copyto(there, array)

    def read(self, there: np.ndarray) -> np.ndarray:
        """The array itself."""
        return there

    def clock(self) -> Clock:
        """The host's."""
        return host_clock()


@dataclass(frozen=True)
class Gpu:
    """The memory of one GPU."""

    ordinal: int
    name: str
    uuid: str

    def __str__(self) -> str:
        return f"cuda:{self.ordinal} {self.name} {self.uuid}"

    def put(self, array: np.ndarray) -> Any:
        """A copy on the GPU; raises DeviceError if it has not the memory."""
        return to_device(array, self.ordinal)

    def write(self, array: np.ndarray, there: Any) -> None:
        """Copy to the GPU."""
        there.memory.copy_from(np.ascontiguousarray(array))

    def read(self, there: Any) -> np.ndarray:
        """A copy on the host; raises DeviceError if the work in flight failed."""
        return to_host(there)

    def clock(self) -> Clock:
        """The GPU's own, by events in its default stream, in which the variants run."""
        return device_clock(self.ordinal)


def home_of(device: str, local_rank: int = 0) -> Home:
    """The place of `device`, "cpu" or "cuda"; the ranks of a node take its visible GPUs in turn.

    Raises:
        Unsupported: there is no CUDA build, driver or GPU.
    """
    if device == "cpu":
        return Host()
    gpus = native.cuda().devices()
    chosen = gpus[local_rank % len(gpus)]
    return Gpu(chosen["ordinal"], chosen["name"], chosen["uuid"])


class Task:
    """A variant ready to run on a problem, again and again.

    Raises:
        Unsupported: the variant does not take the problem here.
        DeviceError: the GPU has not the memory.
    """

    def __init__(self, variant: Variant, problem: Problem, threads: int, home: Home) -> None:
        refusal = variant.reject(problem)
        if refusal is not None:
            raise Unsupported(f"{variant.name} cannot run {problem.label}: {refusal}")
        self.home, self.inputs = home, problem.inputs()
        self._poison = variant.output(problem) if variant.output else problem.output()
        self._out = home.put(self._poison.copy())
        self._call = (variant.run, problem, self._operands(variant, problem), self._out, threads)
        self._collect = variant.collect or (lambda *unused: None)

    def _operands(self, variant: Variant, problem: Problem) -> Arrays | Any:
        if variant.prepare is not None:
            return variant.prepare(problem, self.inputs)
        return {name: self.home.put(array) for name, array in self.inputs.items()}

    def run(self) -> None:
        """Run once; on a GPU, enqueue it."""
        call, problem, arrays, out, threads = self._call
        call(problem, arrays, out, threads)

    def clear(self) -> None:
        """Poison the output, so that an execution that writes nothing is seen."""
        self.home.write(self._poison, self._out)

    def result(self) -> np.ndarray:
        """The output on the host, after the work in flight; valid until the next run."""
        _, problem, arrays, out, _ = self._call
        self._collect(problem, arrays, out)
        return self.home.read(self._out)
