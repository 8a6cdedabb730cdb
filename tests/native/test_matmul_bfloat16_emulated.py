"""The variants for AVX-512 BF16 on processors that lack it: their files, with a model of the one instruction."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyhpc.native import cpu

SOURCE, HERE = Path(__file__).parents[2] / "csrc", Path(__file__).parent
# GCC 12 takes the undefined operands in its own intrinsics for mistakes.
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-fopenmp", "-fno-math-errno"]
FEATURES = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c", "avx512vnni", "avx512bf16"]
TARGET_FLAGS = [f"-m{feature}" for feature in FEATURES]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if refusal := cpu().target_refusal("avx512_vnni"):
        pytest.skip(refusal)
    folder = tmp_path_factory.mktemp("bfloat16")
    sources = {
        HERE / "matmul_driver.cpp": ["-DPYHPC_DRIVER_VARIANT=avx512_bf16"],
        SOURCE / "core/workspace.cpp": [],
        SOURCE / "matmul/generic.cpp": [],
        SOURCE / "matmul/avx512_bf16.cpp": [*TARGET_FLAGS, "-include", HERE / "dpbf16_model.h"],
    }
    objects = [folder / f"{source.stem}.o" for source in sources]
    for (source, flags), result in zip(sources.items(), objects, strict=True):
        subprocess.run(["g++", *FLAGS, *flags, f"-I{SOURCE}", "-c", source, "-o", result], check=True)
    subprocess.run(["g++", "-fopenmp", *objects, "-o", folder / "driver"], check=True)
    return folder / "driver"


def test_the_peak_loop_counts_every_operation(tmp_path):
    if refusal := cpu().target_refusal("avx512_vnni"):
        pytest.skip(refusal)
    program = tmp_path / "peak.cpp"
    program.write_text("""
#include "peak/avx512_bf16.cpp"
int main() {
  using namespace pyhpc::peak;
  return avx512_bf16.bfloat16.run(3) == 3 * block_operations && avx512_bf16.bfloat16.run(0) == 0 ? 0 : 1;
}
""")
    model = ["-include", HERE / "dpbf16_model.h"]
    subprocess.run(["g++", *FLAGS, *TARGET_FLAGS, *model, f"-I{SOURCE}", program, "-o", tmp_path / "peak"], check=True)
    subprocess.run([tmp_path / "peak"], check=True)


def test_products_of_pairs_are_within_the_bound_for_every_layout_kind_of_number_and_way(driver):
    done = subprocess.run([driver, "generic", "avx512_bf16"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "generic right\navx512_bf16 right\n"), done.stdout + done.stderr
