"""The compiled CUDA module. Private: use the functions of pyhpc. A class of static functions is a submodule."""

from typing import Any

def absence() -> str | None: ...
def devices() -> list[dict[str, Any]]: ...
def pointer_device(pointer: int) -> int: ...
def synchronize(device: int = 0, stream: int = 0) -> None: ...

class Event:
    def __init__(self, device: int = 0) -> None: ...
    def record(self, stream: int = 0) -> None: ...
    def synchronize(self) -> None: ...
    def seconds_since(self, start: Event) -> float: ...

class Memory:
    bytes: int
    device: int
    pointer: int
    __cuda_array_interface__: dict[str, Any]
    def __init__(self, bytes: int, device: int = 0) -> None: ...
    def copy_from(self, host: Any, stream: int = 0) -> None: ...
    def copy_to(self, host: Any, stream: int = 0) -> None: ...

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
        stream: int = 0,
        variant: str = "",
    ) -> None: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class matmul:
    @staticmethod
    def run(
        a: Any,
        b: Any,
        out: Any,
        accumulate: bool = False,
        stream: int = 0,
        variant: str = "",
        operands: str = "",
        scale_a: Any = None,
        scale_b: Any = None,
        factor: float = 1.0,
        tf32: bool = False,
    ) -> None: ...
    @staticmethod
    def run_checked(
        a: Any,
        b: Any,
        out: Any,
        accumulate: bool = False,
        stream: int = 0,
        variant: str = "",
        tf32: bool = False,
    ) -> tuple[int, Any, Any, list[tuple[int, int, int, int, int]]] | None: ...
    @staticmethod
    def run_logged(
        a: Any,
        b: Any,
        out: Any,
        log: Any = None,
        sums: Any = None,
        stream: int = 0,
        operands: str = "",
        tf32: bool = False,
    ) -> int: ...
    @staticmethod
    def explain(
        m: int,
        n: int,
        k: int,
        batches: int = 1,
        bytes: int = 2,
        out_bytes: int = 2,
        scaled_along_k: bool = False,
        multiprocessors: int = 132,
    ) -> str: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class memory:
    @staticmethod
    def run(op: str, a: Any, b: Any, c: Any, stream: int = 0, variant: str = "") -> None: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class allreduce:
    @staticmethod
    def reduce(a: Any, b: Any, out: Any, op: str, stream: int = 0, variant: str = "") -> None: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...

class peak:
    block_operations: int
    @staticmethod
    def run(dtype: str, blocks: int, out: Any, stream: int = 0, variant: str = "") -> None: ...
    @staticmethod
    def variants() -> list[tuple[str, str]]: ...
