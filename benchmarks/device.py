#!/usr/bin/env python3
"""One run that settles what the CUDA kernels do on this GPU: builds, checks, times against PyTorch, a short table last.

    python benchmarks/device.py                      # everything, nine minutes at most; from a source tree or installed
    python benchmarks/device.py --only check,memory  # parts: build, check, sanitize, checked, plans, time, memory, peak
    python benchmarks/device.py --row 8192           # only rows with this in their names
    python benchmarks/device.py --record FILE        # put a run's results into the status table (pyhpc list --status)

Needs no network. A row is one check or one comparison. The rows of a part run in a child process (device_child.py) that
answers line by line; a row that hangs or crashes costs itself alone: another child goes on with the next row.

check     fresh random operands, poisoned output, float64 reference; odd shapes, all transposes, every tile; the sums of
          all rows, as matmul(check=True) takes them, find nothing wrong
sanitize  some of them under compute-sanitizer (memcheck, racecheck), where there is one
checked   products whose tiles write checksums: what that costs, and that no tile is wrong
plans     every candidate of sm90's cost model, timed: is the chosen one the fastest?
time      burst: after idling, caches evicted, 10 launches. settled: back to back, the last 40 % of the time.
          Contestants in turn, in both orders; some rows of the first result are checked against float64, the last of
          each turn must equal it bit for bit. Clock, power, temperature, throttle reasons by NVML, while it runs
memory    read, copy, triad, fill of arrays far larger than the L2, beside PyTorch's copy
peak      the arithmetic ceiling of every type; the values count every operation

Exit status: 0 all is right, 1 something is wrong or failed, 3 nothing could run here.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_child import BUILD, ROOT, find_package

PARTS = ("build", "check", "sanitize", "checked", "plans", "time", "memory", "peak")
TOTAL_SECONDS, BUILD_SECONDS, SANITIZE_SECONDS = 540, 240, 60
START_SECONDS = 60  # of a child's first row: loading PyTorch and creating a context
FLOPS_PER_CLOCK = 8192  # of a Hopper multiprocessor's tensor cores, 8-bit operands; wider ones in proportion
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of an operand that sm90 takes; others have 1
# (n, k) of the products of a layer: q and o, k and v together, gate and up together, down.
OTHERS = {"float8_e4m3fn": "bfloat16", "float8_e5m2": "float32", "int8": "int32", "float32": "float32"}  # → out
LLAMA = {"8B": [(4096, 4096), (2048, 4096), (28672, 4096), (4096, 14336)], "70B": [(8192, 8192), (8192, 28672)]}

Row = dict[str, Any]


# ---- what is run ----


def check_rows(scale: int) -> Iterator[Row]:
    """Every plan and transpose at one size beyond the tiles, odd shapes by the chosen plan, exact integers."""
    plans = [f"{n},{rows},{split},{x}" for n in (256, 128, 64) for rows, split in ((2, 1), (1, 1)) for x in (0, 1)]
    plans += [f"{n},1,{split},0" for n in (256, 128, 64) for split in (2, 4, 8)]
    for number, plan in enumerate(plans):
        layout = ("nn", "nt", "tn", "tt")[number % 4]
        dtype, out = ("bfloat16", "float16")[number % 2], ("float32", "")[number // 2 % 2]
        yield product(136, 264, 1096, dtype, out, layout, plan=plan, variant="sm90")
    for m, n, k in [(1, 8, 8), (3, 127, 129), (127, 129, 3), (129, 1, 4097), (4097, 4097, 127), (1, 4097, 4097)]:
        m, n, k = (-(-size // scale) for size in (m, n, k))
        yield product(m, n, k, "bfloat16", pitch=8, variant="sm90")
        yield product(m, n, k, "float16", "float16", pitch=1)
    yield product(4097 // scale, 4097 // scale, 4097 // scale, "bfloat16", pitch=8)
    yield product(512 // scale, 512, 8192 // scale, "bfloat16", pattern="integers", variant="sm90")
    for dtype in ("float32", "float64"):
        yield product(129, 127, 257, dtype, layout="tn")
    yield from other_check_rows(scale)


def other_check_rows(scale: int) -> Iterator[Row]:
    """8-bit and TF32 operands: by each kind of tile, odd shapes, every kind of scale, layouts that only sm80 takes."""
    for dtype, out in OTHERS.items():
        rest = {"variant": "sm90"} | ({"tf32": True} if dtype == "float32" else {})
        for plan in ("256,2,1,0", "128,1,1,1", "64,1,4,0"):
            yield product(136, 264, 1096, dtype, out, "nt", plan=plan, pitch=16, **rest)
        for m, n, k in [(1, 127, 4097), (3, 129, 127), (129, 1, 33), (4097, 4097, 129)]:
            yield product(-(-m // scale), -(-n // scale), -(-k // scale), dtype, out, "nt", pitch=16, **rest)
    for scales in ("one", "lines", "blocks"):
        yield product(265, 392, 1040, "float8_e4m3fn", "bfloat16", "nt", scales=scales, pitch=16, variant="sm90")
        yield product(265, 392, 1037, "float8_e5m2", "float32", "nn", scales=scales)
    for plan in ("128,2,1,0,256", "128,1,1,0,128", "128,1,4,0,256"):
        rest = {"scales": "blocks", "plan": plan, "pitch": 16, "variant": "sm90"}
        yield product(520, 392, 1040, "float8_e4m3fn", "float32", "nt", **rest)
    yield product(129, 127, 257, "int8", "int32", "tn")


def product(
    m: int, n: int, k: int, dtype: str, out: str = "", layout: str = "nn", *, pitch: int = 1, **rest: Any
) -> Row:
    """A row of matmul: `out` of dtype's own type unless given, lines padded to multiples of `pitch` elements."""
    words = [layout if layout != "nn" else "", rest.get("scales", ""), rest.get("plan", "")]
    name = " ".join(["tf32" if rest.get("tf32") else dtype, f"{m}x{n}x{k}", *filter(None, words)])
    sizes = {"m": m, "n": n, "k": k, "dtype": dtype, "out": out or dtype, "layout": layout, "pitch": pitch}
    return {"kind": "check", "name": name, **sizes, **rest}


def time_rows(scale: int) -> Iterator[Row]:
    """Squares in both regimes, then the layers of Llama 3 at several numbers of tokens."""
    for size in (4096, 8192):
        yield product(*[size // scale] * 3, "bfloat16") | {"kind": "time", "seconds": 2.5}
    yield product(*[8192 // scale] * 3, "bfloat16", layout="nt") | {"kind": "time", "seconds": 1.5}
    yield from other_time_rows(scale)
    for model, layers in LLAMA.items():
        for n, k in layers:
            for m in (1, 16, 512, 8192) if model == "8B" else (64, 4096):
                row = product(-(-m // scale), n // scale, k // scale, "bfloat16", layout="nt")
                yield row | {
                    "kind": "time",
                    "seconds": 0.5,
                    "best_only": True,
                    "name": f"{row['name']} Llama-3 {model}",
                }


def other_time_rows(scale: int) -> Iterator[Row]:
    """Squares of the other types; 8 bits with scales along k beside what DeepGEMM publishes for those shapes: on an
    H200 (TileOPs issue 2109) and an H800 (DeepGEMM's README of April 2025), in bursts with cold caches.
    """
    timed = {"kind": "time", "seconds": 1.0, "best_only": True}
    only = {"layout": "nt"}
    size = [8192 // scale] * 3
    yield product(*size, "float8_e4m3fn", "bfloat16", scales="one", **only) | timed
    yield product(*size, "int8", "int32", **only) | timed
    yield product(*size, "float32", tf32=True, **only) | timed
    for m, n, k, published in [(4096, 7168, 2048, 1313), (4096, 7168, 16384, 1520), (64, 7168, 2048, 0)]:
        row = product(m // scale, n // scale, k // scale, "float8_e4m3fn", "bfloat16", scales="blocks", **only) | timed
        yield row | ({"published": published} if published else {})
    yield product(*size, "float64") | timed
    yield product(*[4096 // scale] * 3, "float32") | timed


def plan_rows(scale: int) -> Iterator[Row]:
    """Shapes of many, some and few tiles."""
    for m, n, k in [(4096, 4096, 4096), (512, 4096, 4096), (16, 4096, 14336), (1024, 1024, 1024)]:
        yield product(-(-m // scale), n // scale, k // scale, "bfloat16") | {"kind": "plans"}
    blocks = product(4096 // scale, 7168 // scale, 2048 // scale, "float8_e4m3fn", "bfloat16", "nt", scales="blocks")
    yield blocks | {"kind": "plans"}


def checked_rows(scale: int) -> Iterator[Row]:
    """The cost of checksums for long and short sums."""
    for dtype, out in (("bfloat16", "bfloat16"), ("float8_e4m3fn", "bfloat16"), ("int8", "int32")):
        for k in (8192, 1024) if dtype == "bfloat16" else (8192,):
            yield product(8192 // scale, 8192 // scale, k // scale, dtype, out, "nt") | {"kind": "checked"}


def memory_rows(scale: int) -> Iterator[Row]:
    """Arrays of 1 GiB."""
    for operation in ("read", "copy", "triad", "fill"):
        yield {"kind": "memory", "name": operation, "operation": operation, "elements": (1 << 27) // scale**2}


def peak_rows(scale: int) -> Iterator[Row]:
    """Every type."""
    from pyhpc.kernels.peak import DTYPES

    for dtype in DTYPES:
        yield {"kind": "peak", "name": dtype, "scale": scale}


# ---- running it ----


class Child:
    """A process that works on rows; `answer` waits for the line of the next."""

    def __init__(self, rows: list[Row], prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, sys.executable, str(Path(__file__).with_name("device_child.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.said: list[str] = []  # on standard error
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._read_answers, self._read_errors)]
        for reader in self.readers:
            reader.start()
        try:
            json.dump(rows, self.process.stdin)
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, and its status says why

    def _read_answers(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        self.said += [line.rstrip() for line in self.process.stderr]

    def answer(self, seconds: float) -> Row:
        """The next answer, or why there is none."""
        try:
            while (line := self.lines.get(timeout=seconds)) is not None:
                if line.startswith("{"):  # a sanitizer writes among the answers
                    return json.loads(line)
                self.said.append(line.rstrip())
        except queue.Empty:
            return {"error": f"no answer in {seconds:.0f} s: killed"}
        status = self.process.wait()
        self.readers[1].join()
        return {"error": f"its process ended with status {status}: {' / '.join(self.said[-2:])}"}

    def end(self) -> int:
        """Kill it if it still runs; its exit status."""
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()


def run_rows(rows: list[Row], row_seconds: float, deadline: float) -> Iterator[Row]:
    """Each row with its answer; rows for which no time is left say so."""
    while rows:
        child, first = Child(rows), START_SECONDS
        for number, row in enumerate(rows):
            left = deadline - time.monotonic()
            if left < 1:
                yield from (skipped | {"error": "no time was left for it"} for skipped in rows[number:])
                child.end()
                return
            answer = row | child.answer(min(row_seconds + first, left))
            first = 0
            yield answer
            if "error" in answer:
                break
        child.end()
        rows = rows[number + 1 :]


def sanitize(rows: list[Row], deadline: float) -> Iterator[Row]:
    """Small products of each tile under compute-sanitizer."""
    tool = shutil.which("compute-sanitizer")
    names = ("float16 136x264x1096", "bfloat16 136x264x1096", "float8_e4m3fn 520x392x1040")
    plans = ("256,2,1,0", "64,1,4,0", "128,1,1,1", "128,2,1,0,256")
    chosen = [row for row in rows if row["name"].startswith(names) and row.get("plan") in plans]
    for check in ("memcheck", "racecheck"):
        row = {"kind": "sanitize", "name": check}
        if tool is None:
            yield row | {"absent": "compute-sanitizer is not on PATH"}
            continue
        child = Child(chosen, (tool, "--tool", check, "--error-exitcode", "9"))
        end = min(time.monotonic() + SANITIZE_SECONDS, deadline)
        answers = [child.answer(max(1.0, end - time.monotonic())) for _ in chosen]
        errors = [answer["error"] for answer in answers if "error" in answer]
        if not errors:
            child.process.wait()
            child.readers[1].join()
        status = child.end()
        found = [line for line in child.said if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        said = errors[0] if errors else " / ".join(found) or f"status {status}"
        yield row | ({"error": said} if errors or status else {"right": True, "said": said})


def build(deadline: float) -> Row:
    """The CUDA module, where it is not installed with the package."""
    row = {"kind": "build", "name": "_cuda"}
    probe = "import device_child; device_child.find_package(); import pyhpc._cuda; print(pyhpc._cuda.__file__)"
    words = [sys.executable, "-c", probe]
    present = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if present.returncode == 0 and str(BUILD) not in present.stdout:
        return row | {"right": True, "said": "installed"}
    if shutil.which("nvcc") is None:
        return row | {"absent": "nvcc is not on PATH, and the package is not installed with its CUDA module"}
    began = time.monotonic()
    pybind11 = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=False
    )
    options = [f"-Dpybind11_DIR={pybind11.stdout.strip()}", f"-DPython_EXECUTABLE={sys.executable}", "-DPYHPC_CUDA=ON"]
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release", *options]
    for words in (configure, ["cmake", "--build", str(BUILD), "--target", "_cuda", "-j", str(os.cpu_count() or 1)]):
        left = min(BUILD_SECONDS, deadline - time.monotonic())
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=left, check=False)
        except (subprocess.TimeoutExpired, OSError) as error:
            return row | {"error": f"{words[0]}: {error}"}
        if done.returncode:
            return row | {"error": (done.stdout + done.stderr)[-600:]}
    return row | {"right": True, "said": f"{time.monotonic() - began:.0f} s"}


# ---- what is told ----


def cells(row: Row) -> list[str]:
    """A row of the table: name, rate in each regime with its spread, against PyTorch, clock, power, temperature."""
    for word in ("error", "wrong", "absent"):
        if row.get(word):
            return [f"{row['kind']} {row['name']}: {word}: {row[word]}"]
    if "plans" in row:
        best, chosen = row["plans"][0], next(plan for plan in row["plans"] if plan["chosen"])
        ratio = best["us"] / chosen["us"]
        told = f"chosen {chosen['plan']} {chosen['us']:.1f} us, fastest {best['plan']} {best['us']:.1f} us, {ratio:.2f}"
        return [f"plans {row['name']}: {told}"]
    if "times" not in row:
        return [f"{row['kind']} {row['name']}: right {row.get('said', '')}".rstrip()]
    return [contestant_line(row, name) for name in row["times"]]


def contestant_line(row: Row, name: str) -> str:
    """One contestant's line."""
    amount, unit = (row["flops"], "TFLOP/s") if "flops" in row else (row["bytes"], "TB/s")
    values, peer = row["times"][name], row["times"].get("torch", {})
    words = [f"{row['kind']} {row['name']:<44} {name:<5}"]
    for regime in ("burst", "settled"):
        if regime in values:
            seconds, spread = values[regime]["seconds"], values[regime]["spread"]
            ratio = f" {peer[regime]['seconds'] / seconds:.2f}x" if regime in peer and name != "torch" else " " * 6
            words.append(f"{regime} {amount / seconds / 1e12:8.4g} {unit} ±{spread:4.0%}{ratio}")
    if "clock_hertz" in values:
        words.append(f"{values['clock_hertz'] / 1e6:.0f} MHz")
        if row["kind"] == "time" and name == "sm90" and "multiprocessors" in row:
            per_clock = FLOPS_PER_CLOCK / BYTES.get(row["dtype"], 1) * row["multiprocessors"]
            pipe = amount / values["settled"]["seconds"] / (per_clock * values["clock_hertz"])
            words.append(f"pipe {pipe:.0%}")
    words += [
        f"{values[key]:.0f} {unit}"
        for key, unit in (("power_watts", "W"), ("temperature_celsius", "°C"))
        if key in values
    ]
    if name == "sm90" and "clocks_hertz" in row:
        low, middle, high = (hertz / 1e6 for hertz in row["clocks_hertz"])
        slow = ", ".join(f"SM {number} {times:.2f}x" for number, times in row["slow"].items()) or "none"
        words.append(f"SM clocks {low:.0f}-{middle:.0f}-{high:.0f} MHz, slow: {slow}")
    if name == "sm90" and "published" in row:
        ratio = amount / values["burst"]["seconds"] / 1e12 / row["published"]
        words.append(f"burst {ratio:.2f} of DeepGEMM's {row['published']}")
    if "torch_absent" in row:
        words.append(f"torch: {row['torch_absent'][:80]}")
    return "  ".join([*words, *values.get("throttle_reasons", [])])


def recorded(results: Row) -> list[Any]:
    """The status table's entry for each variant and timed product that was proved right."""
    from pyhpc.device import Run

    found = []
    for row in results["rows"]:
        for name, values in row.get("times", {}).items() if not row.get("wrong") else ():
            if name == "torch":
                continue
            amount, unit = (row["flops"], "TFLOP/s") if "flops" in row else (row["bytes"], "TB/s")
            rate, peer = amount / values["settled"]["seconds"] / 1e12, row["times"].get("torch")
            against = f", {peer['settled']['seconds'] / values['settled']['seconds']:.2f} of torch" if peer else ""
            kernel = "matmul" if row["kind"] == "time" else row["kind"]
            found.append(
                Run(kernel, name, results["gpu"], results["date"], row["name"], f"{rate:.4g} {unit} settled{against}")
            )
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {','.join(PARTS)}")
    parser.add_argument("--row", default="", help="only rows with this in their names")
    parser.add_argument("--out", type=Path, default=Path("device-run"), help="folder for results.json")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="all of it takes no longer")
    parser.add_argument("--row-seconds", type=float, default=45, help="after which a row counts as hung")
    parser.add_argument("--scale", type=int, default=1, help="divide the sizes: for a try without a GPU")
    parser.add_argument("--record", type=Path, help="put results.json of a run into the status table, and end")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    if unknown := set(chosen.only) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return chosen


def run_parts(options: argparse.Namespace, deadline: float) -> Iterator[Row]:
    """Every row of the chosen parts, answered."""
    wanted = {"check": check_rows, "checked": checked_rows, "plans": plan_rows}
    wanted |= {"time": time_rows, "memory": memory_rows, "peak": peak_rows}
    for part in (part for part in PARTS[1:] if part in options.only):
        rows = [row for row in wanted.get(part, check_rows)(options.scale) if options.row in row["name"]]
        yield from sanitize(rows, deadline) if part == "sanitize" else run_rows(rows, options.row_seconds, deadline)


def main() -> int:
    options, deadline = parse(), time.monotonic()
    deadline += options.seconds
    find_package()
    if options.record:
        from pyhpc.device import record

        record(recorded(json.loads(options.record.read_text("utf-8"))))
        return 0
    rows = [build(deadline)] if "build" in options.only else []
    print(*(line for row in rows for line in cells(row)), sep="\n", flush=True)
    from pyhpc import native

    absence = native.cuda_absence()
    if absence is not None:
        print(f"device.py: nothing can run here: CUDA is absent because {absence}")
        return 3
    gpu = native.cuda().devices()[0]
    for row in run_parts(options, deadline):
        rows.append(row | {"multiprocessors": gpu["multiprocessors"]} if "multiprocessors" in gpu else row)
        print(*cells(rows[-1]), sep="\n", flush=True)
    results = {"gpu": gpu["name"], "date": datetime.date.today().isoformat(), "device": gpu, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1), "utf-8")
    return tell(results)


def tell(results: Row) -> int:
    """The short table: what is wrong, and the fastest variant of each row; the exit status."""
    rows = results["rows"]
    bad = [row for row in rows if row.get("wrong") or row.get("error")]
    print(f"\n{results['gpu']}: {len(rows)} rows, {len(bad)} wrong or failed")
    ratios = []
    for row in rows:
        if row in bad or "plans" in row:
            print(*cells(row), sep="\n")
        elif "times" in row:
            own = {name: values["settled"]["seconds"] for name, values in row["times"].items() if name != "torch"}
            best = min(own, key=own.__getitem__)
            print(contestant_line(row, best))
            if "Llama" in row["name"] and "torch" in row["times"]:
                ratios.append(row["times"]["torch"]["settled"]["seconds"] / own[best])
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"layers of Llama 3, settled, torch's time over ours: geometric mean {mean:.2f}, least {min(ratios):.2f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
