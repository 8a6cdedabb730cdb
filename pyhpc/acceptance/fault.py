"""Fault injection, for tests only: proves that the acceptance run sees what it claims to see.

`PYHPC_TEST_FAULT="flip rank=1 step=matmul sample=2 bit=30"` breaks one thing in one worker:
    flip    one bit of one element of one timed result
    die     SIGKILL to itself
    raise   an exception
    hang    sleeps until the step's timeout
Every selector is optional; without one it matches. `sample` counts timed results from 0.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import numpy as np

from pyhpc.errors import ConfigError

VARIABLE = "PYHPC_TEST_FAULT"
_KINDS = ("", "flip", "die", "raise", "hang")


class InjectedFault(RuntimeError):
    """Raised by the fault "raise"; deliberately no PyhpcError, since real bugs are none either."""


@dataclass
class Fault:
    """What to break here, already narrowed to one rank and step; `kind` "" breaks nothing."""

    kind: str = ""
    sample: int = 0
    element: int = 0
    bit: int = 30
    case: str = ""
    _seen: int = 0

    def at_case(self, case: str) -> None:
        """Called before each case: restarts the sample count; dies, raises or hangs if asked to."""
        self._seen = 0
        if self.case and self.case not in case:
            return
        if self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "raise":
            raise InjectedFault("this exception was injected by a test")
        while self.kind == "hang":
            time.sleep(1)

    def at_result(self, result: np.ndarray, case: str) -> None:
        """Called after each timed result, before it is checked: flips the bit when its sample has come."""
        if self.kind != "flip" or (self.case and self.case not in case):
            return
        if self._seen == self.sample and result.size:
            flat = result.reshape(-1)
            raw = flat[self.element : self.element + 1].copy().view(np.uint8)
            bit = self.bit % (8 * raw.size)
            raw[bit // 8] ^= np.uint8(1 << (bit % 8))
            flat[self.element : self.element + 1] = raw.view(result.dtype)
        self._seen += 1


def from_environment(rank: int, step: str) -> Fault:
    """The fault that the environment asks of this rank in this step.

    Raises:
        ConfigError: the variable cannot be understood.
    """
    words = os.environ.get(VARIABLE, "").split()
    if not words:
        return Fault()
    selectors = dict(word.partition("=")[::2] for word in words[1:])
    unknown = sorted(set(selectors) - {"rank", "step", "sample", "element", "bit", "case"})
    if words[0] not in _KINDS or unknown:
        raise ConfigError(
            f"{VARIABLE} = {' '.join(words)!r}: expected flip, die, raise or hang "
            "with rank, step, case, sample, element, bit"
        )
    if selectors.get("rank", str(rank)) != str(rank) or selectors.get("step", step) != step:
        return Fault()
    numbers = {name: int(selectors[name]) for name in ("sample", "element", "bit") if name in selectors}
    return Fault(kind=words[0], case=selectors.get("case", ""), **numbers)
