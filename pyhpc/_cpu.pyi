"""The compiled CPU module. Private: use the functions of pyhpc. A class of static functions is a submodule."""

from collections.abc import Callable
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
    def plan(
        engine: Engine,
        rounds: list[list[tuple[int, int, int, int, bool, bool, int]]],
        windows: list[tuple[int, int, int, int, bool, bool, int]],
        choice: Choice,
        dtype: Any,
        name: str,
        op: str,
        bytes: int,
        signature: int,
    ) -> Callable[[Any, Any], Any]: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

    class SharedMemory:
        file: int
        @staticmethod
        def create(bytes: int) -> allreduce.SharedMemory: ...
        @staticmethod
        def open(process: int, file: int, bytes: int) -> allreduce.SharedMemory: ...
        @staticmethod
        def at(address: int, bytes: int) -> allreduce.SharedMemory: ...
        def close_file(self) -> None: ...

    class SegmentLayout:
        bytes: int
        def __init__(self, ranks: int, slot_bytes: int, slots: int) -> None: ...

    class Choice:
        lines_bytes: int
        step_bytes: int
        strips: int
        def __init__(
            self,
            lines_bytes: int,
            single_copy: bool,
            piece_bytes: int,
            step_bytes: int,
            strips: int,
            streaming_slots: bool,
            streaming_results: bool,
            network_bytes: int,
        ) -> None: ...

    class Engine:
        failed: bool
        spin: int
        timeout_seconds: float
        def __init__(self, rank: int, ranks: int) -> None: ...
        def join(
            self,
            memory: allreduce.SharedMemory,
            layout: allreduce.SegmentLayout,
            members: list[int],
            processes: list[int],
            token: int,
        ) -> None: ...
        def sees(self, tokens: list[int]) -> bool: ...
        def pulls(self, processes: list[int], tokens: list[int]) -> bool: ...
        def bounce(self, first: bool, begin: int, bounces: int) -> None: ...
        def allocate(
            self, memory: allreduce.SharedMemory, number: int, member: int, members: int, offset: int, bytes: int
        ) -> Any: ...
        def connect(self, functions: dict[str, int], comm: int, byte: int, any_source: int) -> None: ...

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
