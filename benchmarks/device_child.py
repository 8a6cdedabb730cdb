"""The child of device.py: runs rows (JSON on standard input) one after another and answers each with a line.

It ends after a row that raises, for a CUDA error stays with its process; device.py starts another for the rest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "device"  # of device.py, where the package is not installed with its CUDA module
TYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}


class Strided(NamedTuple):
    """An array in GPU memory, with strides in bytes, as every library reads it."""

    memory: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.memory.pointer, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": self.strides, "version": 3}


def place(host: np.ndarray, transposed: bool, pitch: int) -> Strided:
    """A copy on the GPU; its lines, or columns if transposed, padded to multiples of `pitch` elements."""
    lines = host.T if transposed else host
    padded = np.zeros((lines.shape[0], -(-lines.shape[1] // pitch) * pitch), host.dtype)
    padded[:, : lines.shape[1]] = lines
    memory = _cuda().Memory(padded.nbytes)
    memory.copy_from(padded)
    strides = padded.strides[::-1] if transposed else padded.strides
    return Strided(memory, host.shape, strides, host.dtype)


def fetch(array: Strided) -> np.ndarray:
    """A copy on the host of an array whose lines may be padded."""
    whole = np.empty(array.memory.bytes, np.uint8)
    array.memory.copy_to(whole)
    return np.ndarray(array.shape, array.dtype, whole, strides=array.strides)


def poison(array: Strided) -> None:
    """NaN in every floating-point type."""
    array.memory.copy_from(np.full(array.memory.bytes, 0xFF, np.uint8))


def _cuda() -> Any:
    from pyhpc.native import cuda

    return cuda()


class Products:
    """The operands of a row, on the host and on the GPU."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row, dtype = row, TYPES[row["dtype"]]
        generator = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))  # fresh on every run

        def operand(rows: int, columns: int) -> np.ndarray:
            if row.get("pattern") == "integers":
                return generator.integers(-127, 128, (rows, columns)).astype(dtype)
            return generator.standard_normal((rows, columns), np.float32).astype(dtype)

        self.a, self.b = operand(row["m"], row["k"]), operand(row["k"], row["n"])
        left, right = (letter == "t" for letter in row["layout"])
        self.on_gpu = place(self.a, left, row["pitch"]), place(self.b, right, row["pitch"])
        self.out = place(np.zeros((row["m"], row["n"]), TYPES[row["out"]]), False, row["pitch"])

    def enqueue(self, variant: str = "") -> None:
        _cuda().matmul.run(*self.on_gpu, self.out, False, 0, variant)

    def wrong(self, found: np.ndarray, rows: np.ndarray) -> str:
        """What float64 says of these rows of a result, "" if they are within the rounding bound."""
        a, b = self.a[rows].astype(np.float64), self.b.astype(np.float64)
        exact, sizes, unit = a @ b, np.abs(a) @ np.abs(b), float(ml_dtypes.finfo(found.dtype).eps) / 2
        # Twice the bound of sums rounded to nearest: the tensor cores cut off.
        sums = 2.0**-52 if found.dtype == np.float64 else 2.0**-23
        bound = (self.row["k"] + 2) * sums * sizes + 2 * unit * np.abs(exact)
        if self.row.get("pattern") == "integers":
            bound, exact = np.zeros_like(bound), exact.astype(found.dtype).astype(np.float64)
        bad = ~(np.abs(found[rows].astype(np.float64) - exact) <= bound)
        if not bad.any():
            return ""
        i, j = np.argwhere(bad)[0]
        return f"{bad.sum()} wrong elements, first [{rows[i]}, {j}]: {found[rows[i], j]}, right is {exact[i, j]}"


def check(row: dict[str, Any]) -> dict[str, Any]:
    os.environ["PYHPC_SM90_PLAN"] = row.get("plan", "")
    usable = [name for name, refusal in _cuda().matmul.variants() if not refusal]
    if row.get("variant", usable[0]) not in usable:
        return {"absent": f"{row['variant']} cannot run here"}
    products = Products(row)
    poison(products.out)
    products.enqueue(row.get("variant", usable[0] if len(usable) == 1 else ""))
    wrong = products.wrong(fetch(products.out), np.arange(row["m"]))
    return {"wrong": wrong} if wrong else {"right": True}


def torch_contestant(products: Products) -> Callable[[], Any] | None:
    """PyTorch's product of the same operands, of the same layout, on the default stream; None without a GPU build."""
    torch = _torch()
    if torch is None:
        return None

    def tensor(array: np.ndarray, transposed: bool) -> Any:
        lines = np.ascontiguousarray(array.T if transposed else array)
        bits = lines.view(np.int16) if lines.dtype == TYPES["bfloat16"] else lines
        there = torch.from_numpy(bits).cuda().view(getattr(torch, products.row["dtype"]))
        return there.T if transposed else there

    left, right = (letter == "t" for letter in products.row["layout"])
    a, b = tensor(products.a, left), tensor(products.b, right)
    out = torch.empty(products.row["m"], products.row["n"], dtype=a.dtype, device="cuda")
    return lambda: torch.matmul(a, b, out=out)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


class Watch(threading.Thread):
    """Reads the GPU's state every 30 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ending, self.states = threading.Event(), []
        self.uuid = _cuda().devices()[0]["uuid"]
        self.start()

    def run(self) -> None:
        from pyhpc.measure import nvml

        while not self.ending.wait(0.03):
            self.states += [state for state in nvml.states() if state.uuid == self.uuid]

    def stop(self) -> dict[str, Any]:
        self.ending.set()
        self.join()
        late = self.states[len(self.states) // 2 :]  # the GPU has come to its temperature and clock
        found = {name: [getattr(state, name) for state in late] for name in _STATE}
        means = {name: statistics.median(v) for name, v in found.items() if v and None not in v}
        return means | {"throttle_reasons": sorted({why for state in late for why in state.throttle_reasons})}


_STATE = ("clock_hertz", "power_watts", "temperature_celsius")


def burst(call: Callable[[], Any], clock: Any) -> list[float]:
    """Ten launches after idling, each with cold caches."""
    time.sleep(0.1)
    samples = []
    for _ in range(10):
        clock.evict()
        samples.append(clock.time(call, 1))
    return samples


def settled(call: Callable[[], Any], clock: Any, seconds: float) -> list[float]:
    """Launches back to back, in pieces of about 10 ms; the last 40 % of the time."""
    count = max(1, min(2000, int(0.01 / max(clock.time(call, 3) / 3, 1e-7))))
    begin, samples = time.perf_counter(), []
    while (now := time.perf_counter() - begin) < seconds:
        samples.append((now, clock.time(call, count) / count))
    return [sample for at, sample in samples if at >= 0.6 * seconds] or [samples[-1][1]]


def summary(samples: list[float]) -> dict[str, float]:
    """Median, and half of what the middle half of the samples spans, relative."""
    middle = statistics.median(samples)
    low, high = np.quantile(samples, [0.25, 0.75])
    return {"seconds": middle, "spread": float(high - low) / 2 / middle, "samples": len(samples)}


def time_row(row: dict[str, Any]) -> dict[str, Any]:
    from pyhpc.measure.clock import device_clock

    os.environ["PYHPC_SM90_PLAN"] = ""
    products, clock = Products(row), device_clock()
    names = [name for name, refusal in _cuda().matmul.variants() if not refusal]
    calls: dict[str, Callable[[], Any]] = {name: lambda name=name: products.enqueue(name) for name in names}
    proof = {name: Proof(products, call) for name, call in calls.items()}
    if (peer := torch_contestant(products)) is not None:
        calls["torch"] = peer
    found: dict[str, dict[str, Any]] = {name: {"burst": [], "settled": []} for name in calls}
    for order in (list(calls), list(calls)[::-1]):
        for name in order:
            found[name]["burst"] += burst(calls[name], clock)
            watch = Watch()
            found[name]["settled"] += settled(calls[name], clock, row["seconds"] / 2)
            found[name] |= watch.stop()
            if name in proof and (wrong := proof[name].wrong()):
                return {"wrong": f"{name}: {wrong}"}
    for values in found.values():
        values |= {regime: summary(values[regime]) for regime in ("burst", "settled")}
    told = tiles_told(products) if row["m"] >= 2048 and "sm90" in names else {}
    return {"flops": 2.0 * row["m"] * row["n"] * row["k"], "times": found} | told


def tiles_told(products: Products) -> dict[str, Any]:
    """What the multiprocessors did in the last of ten products back to back: their own clocks, and who was slow."""
    from pyhpc.measure import multiprocessors

    run = _cuda().matmul.run_logged
    log = place(np.zeros((run(*products.on_gpu, products.out), multiprocessors.WORDS), np.uint64), False, 1)
    for _ in range(10):
        run(*products.on_gpu, products.out, log)
    records = multiprocessors.records(fetch(log))
    clocks = sorted(multiprocessors.clock_hertz(records).values())
    return {"slow": multiprocessors.slow(records), "clocks_hertz": [clocks[0], statistics.median(clocks), clocks[-1]]}


class Proof:
    """The first result, some rows of it checked against float64; later ones must be the same bits."""

    def __init__(self, products: Products, call: Callable[[], Any]) -> None:
        self.products = products
        poison(products.out)
        call()
        self.first = fetch(products.out)
        rows = np.unique(np.linspace(0, len(self.first) - 1, 33).astype(int))
        self.fault = products.wrong(self.first, rows)

    def wrong(self) -> str:
        if self.fault or fetch(self.products.out).tobytes() == self.first.tobytes():
            return self.fault
        return "a timed result differs from the verified one"


def plans(row: dict[str, Any]) -> dict[str, Any]:
    from pyhpc.measure.clock import device_clock

    explain = getattr(_cuda().matmul, "explain", None)
    if "sm90" not in [name for name, refusal in _cuda().matmul.variants() if not refusal] or explain is None:
        return {"absent": "sm90 cannot run here"}
    multiprocessors = _cuda().devices()[0]["multiprocessors"]
    table = explain(row["m"], row["n"], row["k"], 1, TYPES[row["out"]].itemsize, multiprocessors)
    products, clock, found = Products(row), device_clock(), []
    for line in table.splitlines()[1:]:
        tile, order, cluster, split = re.match(r"..\s*128x(\d+)\s+(as given|exchanged)\s+(\d+)\s+(\d+)", line).groups()
        plan = f"{tile},{cluster},{split},{int(order == 'exchanged')}"
        os.environ["PYHPC_SM90_PLAN"] = plan
        call = lambda: products.enqueue("sm90")  # noqa: E731 (the same for all)
        call()
        seconds = statistics.median(clock.time(call, 5) / 5 for _ in range(7))
        found.append(
            {"plan": plan, "chosen": line[0] == "*", "us": seconds * 1e6, "predicted_us": float(line.split()[-1])}
        )
    os.environ["PYHPC_SM90_PLAN"] = ""
    return {"plans": sorted(found, key=lambda plan: plan["us"])}


def memory(row: dict[str, Any]) -> dict[str, Any]:
    from pyhpc.measure.clock import device_clock

    size, operation, clock = row["elements"], row["operation"], device_clock()
    a, b = (place(np.full((1, size), value), False, 1)._replace(shape=(size,), strides=(8,)) for value in (1.0, 2.0))
    parts = 1024 if operation == "read" else size
    c = place(np.zeros((1, parts)), False, 1)._replace(shape=(parts,), strides=(8,))
    arrays = {"read": (a, None), "copy": (a, None), "triad": (a, b), "fill": (None, None)}[operation]
    moved = 8 * size * {"read": 1, "copy": 2, "triad": 3, "fill": 1}[operation]
    found: dict[str, Any] = {}
    for name, refusal in _cuda().memory.variants():
        if refusal:
            continue
        watch = Watch()
        samples = settled(lambda name=name: _cuda().memory.run(operation, *arrays, c, 0, name), clock, 1.0)
        found[name] = {"settled": summary(samples), **watch.stop()}
        expected = {"read": size / parts, "copy": 1.0, "triad": 7.0, "fill": 3.0}[operation]
        if not (fetch(c) == expected).all():
            return {"wrong": f"{name}: an element is not {expected}"}
    if operation == "copy" and (torch := _torch()) is not None:
        x, y = (torch.empty(size, dtype=torch.float64, device="cuda") for _ in range(2))
        found["torch"] = {"settled": summary(settled(lambda: y.copy_(x), clock, 1.0))}
    return {"bytes": moved, "times": found}


HANDLERS = {"check": check, "time": time_row, "plans": plans, "memory": memory}


class Built:
    """Finds pyhpc._cuda in the build folder."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        library = next(BUILD.glob("_cuda.*.so"), None) if name == "pyhpc._cuda" else None
        return None if library is None else importlib.util.spec_from_file_location(name, library)


def find_package() -> None:
    """Make `pyhpc` and its CUDA module importable: as installed, or from this tree and its build folder."""
    sys.path.append(str(ROOT))
    sys.meta_path.append(Built)


def main() -> None:
    find_package()
    for row in json.load(sys.stdin):
        try:
            answer = HANDLERS[row["kind"]](row)
        except Exception as error:  # told in the row's own line, with its kind: the table shows it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(row | answer), flush=True)
        if "error" in answer:
            sys.exit(1)


if __name__ == "__main__":
    main()
