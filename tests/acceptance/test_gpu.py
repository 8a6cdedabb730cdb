"""Cases with device = "cuda", on a pretended GPU (tests/cuda_stand_in): measured, proved, named."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyhpc import comm
from pyhpc.acceptance import planner
from pyhpc.acceptance.config import bundled, load
from pyhpc.acceptance.proof import examine
from pyhpc.acceptance.workloads.kernel import refuted
from pyhpc.kernels.kernel import Check
from pyhpc.machine import probe
from pyhpc.measure.measurement import Verification

STAND_IN = Path(__file__).parents[1] / "cuda_stand_in"
SUITE = """
schema = 1
name = "gpu"

[[step]]
name = "gemm"
workload = "kernel"
cases = [{kernel = "matmul", device = "cuda", dtype = ["float32", "bfloat16"], m = 33, n = 65, k = 17}]
sampling = {min_samples = 6, max_samples = 6, budget_seconds = 0.2, attempts = 1}

[[step.limit]]
metric = "seconds"
unit = "s"
at_most = 10
source = "a test: nothing this small takes so long"
"""

needs_mpi = pytest.mark.skipif(comm.installation_absence() is not None, reason=str(comm.installation_absence()))


def python(folder, stand_in, *words):
    environment = os.environ | {"PYTHONPATH": str(STAND_IN), "PYHPC_STAND_IN": stand_in}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def accept(folder, stand_in="gpus=1", suite=SUITE):
    (folder / "gpu.toml").write_text(suite)
    done = python(folder, stand_in, "-m", "pyhpc", "accept", "gpu.toml", "--out", "run")
    return done, json.loads((folder / "run" / "report.json").read_text())


def test_a_case_on_a_gpu_is_accepted_and_its_record_names_the_gpu(tmp_path):
    done, report = accept(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["answer"] == "ACCEPTED"
    assert {m["subject"]["device"] for m in report["measurements"]} == {"cuda:0 NVIDIA Stand-in GPU-00000"}
    assert {m["variant"] for m in report["measurements"]} == {"sm80"}
    assert [m["problem"]["dtype"] for m in report["measurements"]] == ["float32", "bfloat16"]


def test_the_memory_of_a_gpu_is_measured_too(tmp_path):
    cases = [
        '{kernel = "memory", device = "cuda", op = ["copy", "triad", "fill"], footprint_bytes = 50000, repeats = 2}',
        '{kernel = "memory", device = "cuda", op = "read", footprint_bytes = 1048576}',
    ]
    suite = re.sub(r"cases = .*", f"cases = [{', '.join(cases)}]", SUITE)
    done, report = accept(tmp_path, suite=suite)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {m["problem"]["op"]: m["bytes"] for m in report["measurements"]}
    assert found == {"copy": 99840, "triad": 99840, "fill": 99968, "read": 1 << 20}


def test_gpu_memory_is_measured_beyond_every_cache_and_only_as_a_gpu_can(tmp_path):
    cases = '{kernel = "memory", device = "cuda", op = ["copy", "read"]}, '
    cases += '{kernel = "memory", device = "cuda", op = "read", footprint_bytes = 1048576, repeats = 2}'
    (tmp_path / "gpu.toml").write_text(re.sub(r"cases = .*", f"cases = [{cases}]", SUITE))
    plan = python(tmp_path, "gpus=1", "-m", "pyhpc", "plan", "gpu.toml").stdout
    assert "copy DRAM 1024MiB sm80\n" in plan
    assert "read DRAM 1024MiB sm80\n" in plan
    assert "CANNOT RUN: no cuda variant of memory takes read DRAM 1MiB (sm80: on a GPU, read keeps no sum of" in plan


RELATIVE = (
    SUITE.replace(
        "[[step]]",
        """[[step]]
name = "ceilings"
workload = "kernel"
threads = 1
cases = [{kernel = "peak", device = "cuda", dtype = "float32"}]
sampling = {min_samples = 9, max_samples = 9, budget_seconds = 0.2, attempts = 1}

[[step]]""",
    )
    .replace('"kernel"\ncases = [{kernel = "matmul"', '"kernel"\nthreads = 1\ncases = [{kernel = "matmul"')
    .replace('["float32", "bfloat16"]', '"float32"')
    .replace("samples = 6", "samples = 9")
)
BOUND = """metric = "flops_per_second"
of = "ceiling"
unit = "fraction"
at_least = {}
"""


@pytest.mark.parametrize(("at_least", "answer"), [(1e-12, "ACCEPTED"), (1.0, "REJECTED")])
def test_a_gpu_is_judged_by_the_ceiling_that_it_showed_itself(tmp_path, at_least, answer):
    bound = RELATIVE.replace('metric = "seconds"\nunit = "s"\nat_most = 10\n', BOUND.format(at_least))
    done, report = accept(tmp_path, suite=bound)  # the pretended GPU counts operations without doing them
    assert report["answer"] == answer, done.stdout + done.stderr
    (said,) = (v["reason"] for v in report["verdicts"] if v["limit"])
    assert "of its ceiling" in said
    (case,) = report["plan"]["steps"][1]["cases"]
    assert case["ceilings"] == {"flops_per_second": "ceilings/float32 sm80"}


def test_one_flipped_bit_on_the_gpu_rejects_it_and_names_it_by_uuid(tmp_path):
    done, report = accept(tmp_path, "gpus=1 flip=3")
    assert done.returncode == 1, done.stdout + done.stderr
    (reason,) = (v["reason"] for v in report["verdicts"] if v["outcome"] == "fail")
    assert "cuda:0 NVIDIA Stand-in GPU-00000: timed result 2 has 1 wrong element, the first at (0, 0)" in reason


def test_a_gpu_that_stops_computing_is_found_by_the_poison_in_its_memory(tmp_path):
    done, report = accept(tmp_path, "gpus=1 lazy=1", SUITE.replace('["float32", "bfloat16"]', '"int8"'))
    assert done.returncode == 1, done.stdout + done.stderr
    (record,) = report["measurements"]
    assert record["verification"]["wrong_samples"] == record["verification"]["samples"] == 6


def test_a_checked_product_that_finds_itself_wrong_rejects_the_gpu_and_names_its_multiprocessor(tmp_path):
    suite = SUITE.replace("k = 17", "k = 17, checked = true")
    done, report = accept(tmp_path, "gpus=1 wrong=3", suite)
    assert done.returncode == 1, done.stdout + done.stderr
    right, wrong = (m for m in reversed(report["measurements"]))
    assert (right["case"], right["verification"]["wrong_samples"]) == ("bfloat16 33x65x17 checked sm80", 0)
    assert wrong["verification"]["first_wrong"].startswith("rank 0 on ")
    (reason,) = (v["reason"] for v in report["verdicts"] if v["outcome"] == "fail")
    assert "cuda:0 NVIDIA Stand-in GPU-00000: out[0, 1] is " in reason
    assert "multiprocessor 7, which computed the tile [0:33, 0:65], or the memory gave a wrong value" in reason


def test_a_first_result_that_is_wrong_without_measure_is_recorded_all_the_same():
    found = refuted(Check(1, 1, math.inf, "operations counted", "it counted none"), "rank 3")
    assert (found.wrong_samples, found.first_wrong) == (1, "rank 3: it counted none")
    assert Verification.model_validate_json(found.model_dump_json()) == found


CALL = """
import numpy as np
import pyhpc
from pyhpc.device import to_device, to_host
a, b, out = (to_device(np.ones(shape, np.float32)) for shape in ((40, 8), (8, 200), (40, 200)))
for _ in range(2):
    pyhpc.matmul(a, b, out=out, check=True, variant="sm80")
    print(to_host(out)[0, 1])
"""


def test_a_checked_call_on_a_gpu_returns_or_raises_what_is_wrong(tmp_path):
    done = python(tmp_path, "gpus=1 wrong=2", "-c", CALL)
    assert done.stdout.split() == ["8.0"]
    assert "WrongResult: out[0, 1] is 1008.0, but 8.0 ± " in done.stderr
    assert "multiprocessor 7, which computed the tile [0:40, 0:128]" in done.stderr


def test_a_gpu_that_is_wrong_from_the_start_is_not_timed(tmp_path):
    done, report = accept(tmp_path, "gpus=1 flip=0", SUITE.replace('["float32", "bfloat16"]', '"int8"'))
    assert done.returncode == 1, done.stdout + done.stderr
    (record,) = report["measurements"]
    assert record["seconds"] == {}
    assert record["verification"]["first_wrong"].startswith("rank 0 on ")


def test_a_gpu_without_the_memory_is_an_error_that_names_it(tmp_path):
    done, report = accept(tmp_path, "gpus=1 bytes=4000")
    assert done.returncode == 3, done.stdout + done.stderr
    error = report["measurements"][0]["error"]
    assert "cuda:0 NVIDIA Stand-in GPU-00000 failed in float32 33x65x17 sm80" in error
    assert "cudaErrorMemoryAllocation" in error


def test_without_a_gpu_the_run_is_incomplete_and_says_why(tmp_path):
    done, report = accept(tmp_path, "gpus=0")
    assert done.returncode == 3, done.stdout + done.stderr
    assert report["answer"] == "INCOMPLETE"
    assert report["measurements"] == []
    assert "cannot run here: CUDA is absent because no GPU is visible" in report["sentence"]


SUITES = [name for name in bundled() if name.startswith("gpu-")]


PLANS = """
from pyhpc.acceptance.config import load
from pyhpc.acceptance.planner import make_plan
from pyhpc.machine import probe
from pyhpc.measure.measurement import Verification
machine = probe()
for name in {}:
    print(make_plan(load(name), machine, "mpiexec"))
"""


def test_every_bundled_suite_for_gpus_is_planned_on_them(tmp_path):
    plans = python(tmp_path, "gpus=2", "-c", PLANS.format(SUITES))
    assert plans.returncode == 0, plans.stderr
    refused = [line for line in plans.stdout.splitlines() if "CANNOT RUN" in line]
    assert all("mma.sync multiplies 8-bit floating point only since Ada" in line for line in refused), refused
    steps = [step for name in SUITES for step in load(name).step]
    assert plans.stdout.count("workload kernel, 2 rank(s)") == len(steps)
    assert {step.ranks_per_node for step in steps} == {"gpus"}


def test_without_a_gpu_nothing_of_such_a_suite_is_measured_and_it_is_no_pass(tmp_path):
    done = python(tmp_path, "gpus=0", "-m", "pyhpc", "accept", "gpu-node", "--out", "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (done.returncode, report["answer"], report["measurements"]) == (3, "INCOMPLETE", [])
    assert {verdict["outcome"] for verdict in report["verdicts"]} == {"skip"}
    assert "there is no GPU here" in report["sentence"]


def test_the_suite_of_a_node_is_relative_and_contracts_are_absolute_and_name_their_documents():
    limits = {name: [limit for step in load(name).step for limit in step.limit] for name in SUITES}
    assert {limit.of for limit in limits.pop("gpu-node")} == {"ceiling"}
    assert set(limits) == {"gpu-h100", "gpu-h200", "gpu-gh200", "gpu-b200"}
    for limit in (limit for own in limits.values() for limit in own):
        assert limit.of is None
        assert re.search("data sheet|sheet's|/|README|as step gpu-peak|as for", limit.source)


@needs_mpi
def test_the_ranks_of_a_node_take_its_gpus_in_turn(tmp_path):
    suite = SUITE.replace('workload = "kernel"', 'workload = "kernel"\nranks_per_node = 3')
    done, report = accept(tmp_path, "gpus=2", suite)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {m["subject"]["rank"]: m["subject"]["device"].split()[-1] for m in report["measurements"]}
    assert found == {0: "GPU-00000", 1: "GPU-00001", 2: "GPU-00000"}


def test_a_variant_that_only_a_cuda_build_knows_is_no_mistake_of_the_suite(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "cuda_absence", lambda: "this build has no CUDA module")
    (tmp_path / "gpu.toml").write_text(SUITE.replace('device = "cuda"', 'device = "cuda", variant = "sm90"'))
    plan = planner.make_plan(load(str(tmp_path / "gpu.toml")), probe(), "mpiexec")
    assert {case.skip for case in plan.steps[0].cases} == {"CUDA is absent because this build has no CUDA module"}


def test_a_record_taken_on_another_device_than_planned_is_an_error(make):
    plan = make.plan()
    step = plan.steps[0]
    on_gpu = step.cases[0].model_copy(update={"device": "cuda"})
    found = examine(step, on_gpu, 0, [make.record(step, 0, make.times(1e-3))])
    assert found.outcome == "error"
    assert "it was measured on cpu, planned was cuda" in found.reason


PROGRAM = """
from pyhpc.bench.worker import Worker
problem = {"m": 33, "n": 65, "k": 17, "dtype": "float32"}
worker = Worker()
for name, values in (
    ("prepare", {"kernel": "matmul", "variant": "sm80", "problem": problem, "threads": 1}),
    ("sample", {"index": 0, "seconds": 0.05}),
):
    print(worker.answer({name: values}))
"""


def test_a_comparison_times_and_verifies_a_gpu_too(tmp_path):
    sound = python(tmp_path, "gpus=1", "-c", PROGRAM)
    assert "'verification': 'every element against float64'" in sound.stdout, sound.stderr
    assert "'round': {'index': 0" in sound.stdout
    assert "differs from the verified result" in python(tmp_path, "gpus=1 flip=3", "-c", PROGRAM).stdout
    assert "CUDA is absent because no GPU is visible" in python(tmp_path, "gpus=0", "-c", PROGRAM).stdout
