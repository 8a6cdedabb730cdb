"""benchmarks/device.py, on a pretended GPU (tests/cuda_stand_in) and on none."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyhpc.native import cuda_absence

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS.parent / "benchmarks" / "device.py"


def run(folder, *words, stand_in="gpus=1"):
    environment = os.environ | {"PYTHONPATH": str(TESTS / "cuda_stand_in"), "PYHPC_STAND_IN": stand_in}
    command = [sys.executable, str(SCRIPT), "--scale", "64", "--out", str(folder), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def rows_of(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def test_every_check_is_answered_and_what_cannot_run_says_why(tmp_path):
    done = run(tmp_path, "--only", "build,check,sanitize,checked,plans")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(tmp_path)
    assert {row["kind"] for row in rows} == {"build", "check", "sanitize", "checked", "plans"}
    assert all(row.get("right") or row.get("absent") for row in rows)
    right = [row["name"] for row in rows if row["kind"] == "check" and row.get("right")]
    assert len(right) >= 13
    for scales in ("one", "lines", "blocks"):
        assert f"float8_e5m2 265x392x1037 {scales}" in right
    assert "NVIDIA Stand-in: " in done.stdout
    assert "0 wrong or failed" in done.stdout


def test_a_timed_row_has_both_regimes_and_ends_in_the_status_table(tmp_path, monkeypatch):
    done = run(tmp_path, "--only", "time", "--row", "70B")
    assert done.returncode == 0, done.stdout + done.stderr
    timed = rows_of(tmp_path)
    assert len(timed) == 4
    for row in timed:
        for regime in ("burst", "settled"):
            assert row["times"]["sm80"][regime]["seconds"] > 0
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("device_benchmark", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.recorded(json.loads((tmp_path / "results.json").read_text()))
    assert {(entry.kernel, entry.variant, entry.gpu) for entry in found} >= {("matmul", "sm80", "NVIDIA Stand-in")}
    assert all("settled" in entry.rate for entry in found)


@pytest.mark.parametrize("operation", ["read", "triad"])
def test_memory_is_timed_and_its_contents_are_looked_at(tmp_path, operation):
    done = run(tmp_path, "--only", "memory", "--row", operation)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = rows_of(tmp_path)
    assert row["bytes"] == 8 * 2**15 * {"read": 1, "triad": 3}[operation]
    assert "TB/s" in done.stdout


def test_the_ceilings_are_timed_and_their_operations_counted(tmp_path):
    done = run(tmp_path, "--only", "peak", "--row", "float")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in rows_of(tmp_path)}
    assert rows.pop("float8_e4m3fn")["absent"] == "no variant takes it here"
    assert set(rows) == {"float64", "float32", "bfloat16", "float16"}
    assert all(row["times"]["sm80"]["settled"]["seconds"] > 0 for row in rows.values())


def test_a_right_product_whose_checksums_complain_is_told(tmp_path):
    done = run(tmp_path, "--only", "check", "--row", "float32 129x127x257", stand_in="gpus=1 wrong=2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "its checksums find row 0 wrong, computed in [(7, 0, 0, 128, 128)" in done.stdout


def test_a_wrong_scale_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    products = importlib.import_module("device_products")
    row = {"dtype": "float8_e4m3fn", "m": 3, "n": 300, "k": 300, "out": "float32", "scales": "blocks"}
    made = products.Products.__new__(products.Products)
    random = np.random.default_rng(1)
    made.row, made.a, made.b = row, *(random.standard_normal(shape) for shape in ((3, 300), (300, 300)))
    made.scales = [random.uniform(0.5, 2, shape) for shape in ((3, 3), (3, 3))]
    right = np.array(
        [
            [
                sum(
                    made.a[i, p] * made.scales[0][i, p // 128] * made.b[p, j] * made.scales[1][p // 128, j // 128]
                    for p in range(300)
                )
                for j in range(300)
            ]
            for i in range(3)
        ]
    ).astype(np.float32)
    assert made.wrong(right, np.arange(3)) == ""
    made.scales[1][2, 2] *= 1.5
    assert "wrong elements, first [0, 256]" in made.wrong(right, np.arange(3))


def test_a_wrong_result_is_told_and_decides_the_exit_status(tmp_path):
    done = run(tmp_path, "--only", "check", "--row", "float32 129x127x257", stand_in="gpus=1 lazy=0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wrong elements, first [0, 0]: nan" in done.stdout


def test_a_timed_result_that_differs_from_the_verified_one_is_told(tmp_path):
    done = run(tmp_path, "--only", "time", "--row", "bfloat16 128x128x128 nt", stand_in="gpus=1 flip=1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "sm80: a timed result differs from the verified one" in done.stdout


def test_a_row_that_hangs_costs_itself_alone(tmp_path):
    words = ("--only", "check", "--row", "float", "--row-seconds", "2")
    done = run(tmp_path, *words, "--seconds", "60", stand_in="gpus=1 hang=5")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = [row for row in rows_of(tmp_path) if "absent" not in row]
    errors = [row["error"] for row in rows if "error" in row]
    # The third row of each child hangs: a row makes two products, one of them for its checksums.
    assert errors
    assert set(errors) == {"no answer in 2 s: killed"}
    assert [bool(row.get("error")) for row in rows[:6]] == [False, False, True, False, False, True]


@pytest.mark.skipif(cuda_absence() is None, reason="there is a GPU")
def test_without_a_gpu_it_says_why():
    command = [sys.executable, str(SCRIPT), "--only", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "nothing can run here: CUDA is absent because" in done.stdout
