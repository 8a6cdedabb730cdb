"""What a kernel is: a `Problem` (one instance of it), the `Kernel` (the contract) and its `Variant`s (ways to fulfil
it).

Adding a kernel is adding one file to this folder that defines `KERNEL`; the folder listing is the registry.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyhpc.errors import ConfigError
from pyhpc.registry import members

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """What comparing one result with the float64 reference gave."""

    elements: int  # how many elements were compared
    wrong: int  # how many were outside the tolerance, or not finite where the reference is
    worst: float  # max |result - reference| / tolerance over the elements compared; ≤ 1 is right
    method: str  # "every element against float64", "row sample and Freivalds checksum …"
    first_wrong: str | None = None  # where and by how much, in one sentence

    @property
    def passed(self) -> bool:
        """Whether elements were compared and none was wrong."""
        return self.elements > 0 and self.wrong == 0


@dataclass(frozen=True)
class Problem(ABC):
    """One instance of a kernel: sizes and dtype (fields of the subclass), data pattern and seed.

    Subclasses are frozen dataclasses whose fields are plain values, so that a problem prints itself, is a key, and goes
    to JSON and back (`to_json`, `Kernel.problem`).
    """

    kernel: ClassVar[str]  # the kernel's name

    @property
    @abstractmethod
    def label(self) -> str:
        """Short and unique among this kernel's problems: "float32 2048x2048x2048"."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Floating-point (or integer) operations of one execution: the work model, source in the subclass."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes that must at least move between memory and processor: each operand once."""

    @property
    @abstractmethod
    def ceiling(self) -> str:
        """Label of the `peak` problem (its dtype) whose rate bounds this problem's compute rate."""

    @abstractmethod
    def inputs(self) -> Arrays:
        """Fresh input arrays, the same for the same problem on every machine (pattern and seed)."""

    @abstractmethod
    def output(self) -> np.ndarray:
        """A fresh output array, poisoned (NaN, or the lowest integer) so that an unwritten element is seen."""

    @abstractmethod
    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Compare `result` with the float64 reference within the proven error bound."""

    def to_json(self) -> dict[str, Any]:
        """Field names and values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Variant:
    """One way to fulfil a kernel's contract."""

    name: str  # "avx512", "numba", "sm80"; a peer's name is the library's: "numpy", "torch"
    device: str  # "cpu" or "cuda"
    reject: Callable[[Any], str | None]  # reject(problem): why it cannot run it here, or None
    run: Callable[..., None]  # run(problem, arrays, out, threads): writes out; arrays as problem.inputs() on `device`
    status: str = "runs in CI"  # for GPU code: on which GPU it ran and when, or "compiled only"
    prepare: Callable[[Any, Arrays], Any] | None = (
        None  # untimed conversion of inputs to what run takes (peers: tensors)
    )
    output: Callable[[Any], np.ndarray] | None = (
        None  # instead of problem.output(): a peer whose result has another type
    )
    collect: Callable[[Any, Any, np.ndarray], None] | None = (
        None  # untimed collect(problem, arrays, out) after run: brings the result of a peer that makes it itself to out
    )


@dataclass(frozen=True)
class Kernel:
    """A contract: its problem type, its variants best first, and the peers it is compared with."""

    name: str
    summary: str  # the defining formula in one line
    problem_type: type[Problem]
    variants: Callable[[], tuple[Variant, ...]]  # best first; includes the ones that cannot run here
    peers: Callable[[], tuple[Variant, ...]] = lambda: ()
    examples: tuple[Problem, ...] = ()  # small problems at the edges of the contract; tests run every variant on each

    def problem(self, values: Mapping[str, Any]) -> Problem:
        """The problem with these field values.

        Raises:
            ConfigError: an unknown or missing field, or a value out of range.
        """
        self.require_known(values)
        signature = inspect.signature(self.problem_type).parameters.values()
        if missing := [p.name for p in signature if p.default is p.empty and p.name not in values]:
            raise ConfigError(f"kernel {self.name} needs {', '.join(missing)} as well")
        try:
            return self.problem_type(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"kernel {self.name}: {error}") from error

    def require_known(self, names: Collection[str]) -> None:
        """Raises ConfigError for a name that is no parameter of this kernel."""
        fields = [field.name for field in dataclasses.fields(self.problem_type)]
        if unknown := sorted(set(names) - set(fields)):
            raise ConfigError(f"kernel {self.name} has no parameter {unknown[0]!r}; it has {', '.join(fields)}")

    def variant(self, name: str) -> Variant:
        """The variant or peer called `name`.

        Raises:
            ConfigError: there is none.
        """
        known = self.variants() + self.peers()
        for variant in known:
            if variant.name == name:
                return variant
        raise ConfigError(f"kernel {self.name} has no variant {name!r}; it has {', '.join(v.name for v in known)}")

    def best(self, problem: Problem, device: str = "cpu") -> Variant:
        """The first variant on `device` that takes `problem`, or the one that the environment variable PYHPC_VARIANT
        names (an instruction set: a kernel without code for it uses the next best).

        Raises:
            ConfigError: none does; the sentence gives each one's reason.
        """
        forced = self._at_most(os.environ.get("PYHPC_VARIANT", ""))
        if forced and self.variant(forced).device != device:
            forced = ""  # it speaks of the other device
        reasons = []
        for variant in self.variants():
            if variant.device == device and (not forced or variant.name == forced):
                reason = variant.reject(problem)
                if reason is None:
                    return variant
                reasons.append(f"{variant.name}: {reason}")
        raise ConfigError(
            f"no {device} variant of {self.name} takes {problem.label} ({'; '.join(reasons) or 'there is none'})"
        )

    def _at_most(self, forced: str) -> str:
        """What stands for `forced` in a kernel without it, as in csrc/core/variant.h."""
        from pyhpc.native import cpu

        targets, mine = cpu().targets(), {variant.name for variant in self.variants()}
        later = targets[targets.index(forced) :] if forced in targets else []
        return next((target for target in later if target in mine), forced)


@functools.cache
def kernels() -> dict[str, Kernel]:
    """Every kernel of this folder by name, in the folder's order."""
    return members("pyhpc.kernels", "KERNEL")
