"""`pyhpc accept` as a user runs it: a sound machine, a lying one, a killed driver, an MPI world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pyhpc import comm
from pyhpc.acceptance import records
from pyhpc.acceptance.fault import VARIABLE

needs_mpi = pytest.mark.skipif(comm.installation_absence() is not None, reason=str(comm.installation_absence()))

SUITE = """
schema = 1
name = "tiny"

[[step]]
name = "peak"
workload = "kernel"
cases = [{kernel = "peak", dtype = ["float32", "int8"], blocks = 1, variant = "generic"}]
sampling = {min_samples = 8, max_samples = 8, budget_seconds = 0.3, attempts = 1}

[[step]]
name = "matmul"
workload = "kernel"
timeout_seconds = 60
cases = [{kernel = "matmul", dtype = ["float32", "int8", "float64"], m = 33, n = 65, k = 17, variant = "generic"}]
sampling = {min_samples = 8, max_samples = 8, budget_seconds = 0.3, attempts = 1}

[[step.limit]]
metric = "seconds"
unit = "s"
at_most = 10
source = "a test: nothing this small takes so long"
"""
ALLREDUCE = """
[[step]]
name = "allreduce"
workload = "allreduce"
ranks_per_node = 2
threads = 1
cases = [
  {elements = [1, 3, 1000], variant = ["ring", "recursive_doubling"]},
  {elements = 1000, order = ["repeatable", "invariant"], buffer = ["ordinary", "window"], algorithm = "swing"},
]
sampling = {min_samples = 8, max_samples = 8, budget_seconds = 0.3, attempts = 1}
"""


def accept(
    folder: Path, *words: str, suite: str = SUITE, fault: str = "", ranks: int = 0
) -> subprocess.CompletedProcess:
    (folder / "tiny.toml").write_text(suite)
    command = [sys.executable, "-m", "pyhpc", "accept", *(words or ("tiny.toml", "--out", "run"))]
    environment = {**os.environ, VARIABLE: fault}
    if ranks:
        command = [*comm.mpiexec_command(ranks), *command]
        environment |= comm.mpiexec_environment(ranks)
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150
    )


def report(folder: Path) -> dict:
    return json.loads((folder / "run" / "report.json").read_text())


def test_a_sound_machine_is_accepted_and_every_output_is_written(tmp_path):
    done = accept(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ACCEPTED" in done.stdout
    found = report(tmp_path)
    assert found["answer"] == "ACCEPTED"
    assert found["coverage"]["cases"] == found["coverage"]["cases_measured"] == 5
    for name in ("report.html", "junit.xml", "records.jsonl", "plan.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_one_flipped_bit_in_one_timed_result_rejects_the_machine_and_is_named(tmp_path):
    done = accept(tmp_path, fault="flip step=matmul case=float64 sample=5 element=40 bit=0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert report(tmp_path)["answer"] == "REJECTED"
    reasons = [v["reason"] for v in report(tmp_path)["verdicts"] if v["outcome"] != "pass" and v["limit"] is None]
    assert len(reasons) == 1
    assert "timed result 5 has 1 wrong element, the first at (0, 40)" in reasons[0]
    assert "REJECTED" in (tmp_path / "run" / "report.html").read_text()


def test_a_worker_that_dies_leaves_the_run_incomplete_and_is_named(tmp_path):
    done = accept(tmp_path, fault="die step=matmul case=int8")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "SIGKILL while preparing int8 33x65x17" in done.stdout
    assert report(tmp_path)["answer"] == "INCOMPLETE"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_ended_by_a_signal_is_resumed_with_nothing_lost_and_nothing_measured_twice(tmp_path, number):
    # No interval is ever this narrow: every case takes its whole second.
    slow = "min_samples = 8, budget_seconds = 1.0, relative_width = 1e-9, max_samples = 10000000"
    suite = SUITE.replace("min_samples = 8, max_samples = 8, budget_seconds = 0.3", slow)
    (tmp_path / "tiny.toml").write_text(suite)
    # A shell that started these tests in the background had them ignore SIGINT, which a child would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "pyhpc", "accept", "tiny.toml", "--out", "run"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        worker_file = tmp_path / "run" / records.STEPS / "matmul.1" / "rank-0.jsonl"
        deadline = time.monotonic() + 100
        while not worker_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert worker_file.exists()
        driver.send_signal(number)
        told = driver.communicate(timeout=30)[1]
    if number != signal.SIGKILL:
        assert driver.returncode == 3
        assert "pyhpc accept --resume run" in told
    time.sleep(1.5)  # a worker ends soon after its driver
    before, _ = records.load(tmp_path / "run")
    assert 3 <= len(before) < 5
    done = accept(tmp_path, "--resume", "run", suite=suite)
    assert done.returncode == 0, done.stdout + done.stderr
    after, damaged = records.read(tmp_path / "run" / records.RECORDS)
    assert not damaged
    assert Counter((m.step, m.case) for m in after) == Counter(
        {("peak", c): 1 for c in ("float32 generic", "int8 generic")}
        | {("matmul", f"{d} 33x65x17 generic"): 1 for d in ("float32", "int8", "float64")}
    )
    assert all(m in after for m in before)


def test_a_finished_run_is_not_overwritten_and_resuming_it_measures_nothing(tmp_path):
    assert accept(tmp_path).returncode == 0
    size = (tmp_path / "run" / records.RECORDS).stat().st_size
    again = accept(tmp_path)
    assert again.returncode == 3
    assert "already holds a run" in again.stderr
    assert accept(tmp_path, "--resume", "run").returncode == 0
    assert (tmp_path / "run" / records.RECORDS).stat().st_size == size


@needs_mpi
def test_ranks_measure_an_all_reduce_together(tmp_path):
    done = accept(tmp_path, suite=SUITE + ALLREDUCE)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = [m for m in records.read(tmp_path / "run" / records.RECORDS)[0] if m.step == "allreduce"]
    assert {(m.problem["elements"], m.variant) for m in measured if m.problem["order"] == "fast"} == {
        (elements, name) for elements in (1, 3, 1000) for name in ("ring", "recursive_doubling")
    }
    others = [m for m in measured if m.problem["order"] != "fast"]
    assert {(m.variant, m.problem["order"], m.problem["buffer"]) for m in others} == {
        ("swing", order, buffer) for order in ("repeatable", "invariant") for buffer in ("ordinary", "window")
    }
    assert all(m.conditions.line_latency_seconds[0] > 0 for m in measured)
    assert all(m.ranks == 2 and set(m.seconds) == {0, 1} for m in measured)


@needs_mpi
def test_one_flipped_bit_on_one_rank_of_a_collective_names_that_rank(tmp_path):
    done = accept(
        tmp_path, suite=SUITE + ALLREDUCE, fault="flip rank=1 step=allreduce case=1000 sample=3 element=7 bit=1"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    reasons = " ".join(v["reason"] for v in report(tmp_path)["verdicts"] if v["outcome"] == "fail")
    assert "rank 1 on" in reasons
    assert "the first at (7,)" in reasons


@needs_mpi
def test_a_rank_that_raises_inside_a_collective_is_named_and_the_run_goes_on(tmp_path):
    done = accept(tmp_path, suite=SUITE + ALLREDUCE, fault="raise rank=1 step=allreduce case=1000")
    assert done.returncode == 3, done.stdout + done.stderr
    reasons = " ".join(v["reason"] for v in report(tmp_path)["verdicts"] if v["outcome"] == "error")
    assert "rank 1 on" in reasons
    assert "InjectedFault" in reasons


@needs_mpi
def test_a_world_started_by_mpiexec_accepts_inline_with_one_status(tmp_path):
    done = accept(tmp_path, suite=SUITE + ALLREDUCE, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["launcher"] == "inline"
    assert report(tmp_path)["coverage"]["cases_measured"] == 15


@needs_mpi
def test_a_rank_that_hangs_in_a_world_is_named_and_the_run_can_be_resumed(tmp_path):
    suite = SUITE + ALLREDUCE.replace("threads = 1", "threads = 1\ntimeout_seconds = 6")
    done = accept(tmp_path, suite=suite, fault="hang rank=1 step=allreduce", ranks=2)
    assert done.returncode != 0
    assert "rank 1 on" in done.stderr
    assert "had not finished after 6 s" in done.stderr
    assert "--resume" in done.stderr
    errors = [m for m in records.read(tmp_path / "run" / records.RECORDS)[0] if m.error]
    assert {m.subject.rank for m in errors} == {1}
