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
from typing import Any

import numpy as np
from device_products import TYPES, Products, cuda_module, fetch, loaded_torch, place, poison, torch_contestant

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "device"  # of device.py, where the package is not installed with its CUDA module


def check(row: dict[str, Any]) -> dict[str, Any]:
    os.environ["PYHPC_SM90_PLAN"] = row.get("plan", "")
    usable = [name for name, refusal in cuda_module().matmul.variants() if not refusal]
    if row.get("variant", usable[0]) not in usable:
        return {"absent": f"{row['variant']} cannot run here"}
    products, variant = Products(row), row.get("variant", usable[0] if len(usable) == 1 else "")
    poison(products.out)
    products.enqueue(variant)
    wrong = products.wrong(fetch(products.out), np.arange(row["m"]))
    if not wrong and not products.kind["operands"]:
        arrays = (*products.on_gpu, products.out)
        told = cuda_module().matmul.run_checked(*arrays, variant=variant, tf32=products.kind["tf32"])
        wrong = "" if told is None else f"its checksums find row {told[0]} wrong, computed in {told[3]}"
    return {"wrong": wrong} if wrong else {"right": True}


class Watch(threading.Thread):
    """Reads the GPU's state every 30 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ending, self.states = threading.Event(), []
        self.uuid = cuda_module().devices()[0]["uuid"]
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
    names = [name for name, refusal in cuda_module().matmul.variants() if not refusal]
    names = names[:1] if row.get("best_only") else names
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
    absent = {name: row[name] for name in ("torch_absent",) if name in row}
    return {"flops": 2.0 * row["m"] * row["n"] * row["k"], "times": found} | told | absent


def tiles_told(products: Products) -> dict[str, Any]:
    """What the multiprocessors did in the last of ten products back to back: their own clocks, and who was slow."""
    from pyhpc.measure import multiprocessors

    run = cuda_module().matmul.run_logged
    arrays = (*products.on_gpu, products.out)
    log = place(np.zeros((run(*arrays, **products.kind), multiprocessors.WORDS), np.uint64), False, 1)
    for _ in range(10):
        run(*arrays, log, **products.kind)
    records = multiprocessors.records(fetch(log))
    clocks = sorted(multiprocessors.clock_hertz(records).values())
    return {"slow": multiprocessors.slow(records), "clocks_hertz": [clocks[0], statistics.median(clocks), clocks[-1]]}


def checked(row: dict[str, Any]) -> dict[str, Any]:
    """Products whose tiles write the sums of their lines: what that costs, and whether any tile is wrong."""
    from pyhpc.measure import multiprocessors
    from pyhpc.measure.clock import device_clock
    from pyhpc.measure.tile_checksums import LINES, TileChecksums

    if "sm90" not in [name for name, refusal in cuda_module().matmul.variants() if not refusal]:
        return {"absent": "sm90 cannot run here"}
    products, clock, run = Products(row), device_clock(), cuda_module().matmul.run_logged
    arrays = (*products.on_gpu, products.out)
    count = run(*arrays, **products.kind)
    log = place(np.zeros((count, multiprocessors.WORDS), np.uint64), False, 1)
    sums = place(np.zeros((count * LINES, 2), np.uint32), False, 1)._replace(
        shape=(count, LINES, 2), strides=(8 * LINES, 8, 4)
    )
    call = lambda: run(*arrays, log, sums, **products.kind)  # noqa: E731 (timed below)
    call()
    checksums = TileChecksums.of(
        multiprocessors.records(fetch(log)), products.a, products.b, TYPES[row["dtype"]].itemsize
    )
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(10):
        poison(sums)
        for with_sums in (False, True):
            times[with_sums].append(clock.time(call if with_sums else lambda: products.enqueue("sm90"), 5) / 5)
        call()
        found = fetch(sums).view(np.int32 if row["out"] == "int32" else np.float32)
        for tile in checksums.wrong(multiprocessors.records(fetch(log)), found):
            return {"wrong": f"multiprocessor {tile.multiprocessors}: line {tile.line} sums to {tile.found}, not to "
                    f"{tile.expected} (threshold {tile.threshold})"}  # fmt: skip
    cost = statistics.median(times[True]) / statistics.median(times[False]) - 1
    return {"right": True, "said": f"log and sums cost {cost:.1%}, {10 * len(checksums.places)} tiles checked"}


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

    explain = getattr(cuda_module().matmul, "explain", None)
    if "sm90" not in [name for name, refusal in cuda_module().matmul.variants() if not refusal] or explain is None:
        return {"absent": "sm90 cannot run here"}
    multiprocessors = cuda_module().devices()[0]["multiprocessors"]
    sizes = row["m"], row["n"], row["k"], 1, TYPES[row["dtype"]].itemsize, TYPES[row["out"]].itemsize
    table = explain(*sizes, row.get("scales") == "blocks", multiprocessors)
    products, clock, found = Products(row), device_clock(), []
    for line in table.splitlines()[1:]:
        told = re.match(r"..\s*(\d+)x(\d+)\s+(as given|exchanged)\s+(\d+)\s+(\d+)", line).groups()
        rows, columns, order, cluster, split = told
        plan = f"{columns},{cluster},{split},{int(order == 'exchanged')},{rows}"
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
    for name, refusal in cuda_module().memory.variants():
        if refusal:
            continue
        watch = Watch()
        samples = settled(lambda name=name: cuda_module().memory.run(operation, *arrays, c, 0, name), clock, 1.0)
        found[name] = {"settled": summary(samples), **watch.stop()}
        expected = {"read": size / parts, "copy": 1.0, "triad": 7.0, "fill": 3.0}[operation]
        if not (fetch(c) == expected).all():
            return {"wrong": f"{name}: an element is not {expected}"}
    if operation == "copy" and (torch := loaded_torch()) is not None:
        x, y = (torch.empty(size, dtype=torch.float64, device="cuda") for _ in range(2))
        found["torch"] = {"settled": summary(settled(lambda: y.copy_(x), clock, 1.0))}
    return {"bytes": moved, "times": found}


def peak(row: dict[str, Any]) -> dict[str, Any]:
    from pyhpc.kernels.peak import BLOCK_OPERATIONS, KERNEL, on_gpu
    from pyhpc.measure.clock import device_clock

    whole, clock = on_gpu(row["name"]), device_clock()
    blocks = -(-whole.blocks // row["scale"] ** 2)
    out = place(np.zeros((1, 1), np.int64), False, 1)._replace(shape=(1,), strides=(8,))
    found: dict[str, Any] = {}
    for variant in (v for v in KERNEL.variants() if v.device == "cuda" and v.reject(whole) is None):
        watch = Watch()
        call = lambda name=variant.name: cuda_module().peak.run(row["name"], blocks, out, 0, name)  # noqa: E731
        found[variant.name] = {"settled": summary(settled(call, clock, 1.0))} | watch.stop()
        if (counted := int(fetch(out)[0])) != blocks * BLOCK_OPERATIONS:
            return {
                "wrong": f"{variant.name}: the values counted {counted} operations, not {blocks * BLOCK_OPERATIONS}"
            }
    return {"flops": blocks * BLOCK_OPERATIONS, "times": found} if found else {"absent": "no variant takes it here"}


HANDLERS = {"peak": peak, "check": check, "time": time_row, "plans": plans, "memory": memory, "checked": checked}


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
