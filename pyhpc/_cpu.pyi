"""The compiled CPU module. Private: use the functions of pyhpc. A class of static functions is a submodule."""

from typing import Any

compiler: str

def targets() -> list[str]: ...
def target_refusal(target: str) -> str | None: ...
def available_threads() -> int: ...
def effective_hertz() -> float: ...
def cache_sizes() -> dict[str, int]: ...

class matmul:
    class Packed:
        shape: tuple[int, int]
        dtype: str
        variant: str
        nbytes: int

    @staticmethod
    def pack(b: Any, threads: int = 0, variant: str = "") -> Packed: ...
    @staticmethod
    def run(a: Any, b: Any, out: Any, accumulate: bool = False, threads: int = 0, variant: str = "") -> None: ...
    @staticmethod
    def run_checked(a: Any, b: Any, out: Any, accumulate: bool = False, threads: int = 0, variant: str = "") -> int: ...
    @staticmethod
    def check(a: Any, b: Any, out: Any, threads: int = 0, variant: str = "") -> int: ...
    @staticmethod
    def multiply(a: Any, b: Any, out: Any, accumulate: bool, threads: int, variant: str) -> Any: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class attention:
    @staticmethod
    def run(
        q: Any,
        k: Any,
        v: Any,
        out: Any,
        lse: Any = None,
        causal: bool = False,
        window: int = -1,
        scale: float = 0.0,
        threads: int = 0,
        variant: str = "",
    ) -> None: ...
    @staticmethod
    def backward(
        dout: Any,
        q: Any,
        k: Any,
        v: Any,
        out: Any,
        lse: Any,
        dq: Any,
        dk: Any,
        dv: Any,
        causal: bool = False,
        window: int = -1,
        scale: float = 0.0,
        threads: int = 0,
        variant: str = "",
    ) -> None: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class peak:
    block_operations: int
    @staticmethod
    def run(dtype: str, blocks: int, threads: int = 0, variant: str = "") -> int: ...
    @staticmethod
    def instruction(dtype: str, variant: str = "") -> str: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class allreduce:
    @staticmethod
    def reduce(a: Any, b: Any, out: Any, op: str, threads: int = 0, variant: str = "") -> None: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class memory:
    scalar: float
    @staticmethod
    def run(
        op: str,
        a: Any,
        b: Any,
        c: Any,
        repeats: int = 1,
        streaming: bool = False,
        threads: int = 0,
        variant: str = "",
    ) -> float: ...
    @staticmethod
    def line_latency(core_a: int, core_b: int, rounds: int = 20000) -> float: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...
