"""The matmul variants of Arm processors, compiled by a cross compiler and run under an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "csrc"
NEON = ("neon", "neon_bf16")
COMPILER, NM, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-nm", "qemu-aarch64-static"
MISSING = [tool for tool in (COMPILER, NM, EMULATOR) if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fopenmp", "-fno-math-errno", f"-I{SOURCE}"]


def compile_object(source, folder, *flags, name=None):
    result = folder / f"{name or source.stem}.o"
    subprocess.run([COMPILER, *FLAGS, *flags, "-c", source, "-o", result], check=True)
    return result


def flags_of(target):
    lines = (SOURCE / "targets.cmake").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"set(PYHPC_FLAGS_{target} ")).rstrip(")").split()[1:]


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aarch64")
    driver = Path(__file__).with_name("matmul_driver.cpp")
    return {
        "workspace": compile_object(SOURCE / "core/workspace.cpp", folder),
        "generic": compile_object(SOURCE / "matmul/generic.cpp", folder),
        **{name: compile_object(SOURCE / f"matmul/{name}.cpp", folder, *flags_of(name)) for name in NEON},
        **{
            f"driver of {name}": compile_object(driver, folder, f"-DPYHPC_DRIVER_VARIANT={name}", name=f"driver_{name}")
            for name in NEON
        },
    }


def run_driver(objects, folder, *variants):
    driver = folder / "driver"
    parts = [objects[part] for part in ("workspace", "generic", variants[-1], f"driver of {variants[-1]}")]
    # libgomp.a mentions dlopen, about which a static link warns.
    subprocess.run([COMPILER, "-static", "-fopenmp", *parts, "-o", driver], check=True, capture_output=True)
    done = subprocess.run([EMULATOR, "-cpu", "max", driver, *variants], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "".join(f"{name} right\n" for name in variants)), (
        done.stdout + done.stderr
    )


def test_neon_and_generic_give_exact_sums_under_the_emulator(objects, tmp_path):
    run_driver(objects, tmp_path, "generic", "neon")


def test_products_of_pairs_rounded_to_odd_are_within_the_bound_under_the_emulator(objects, tmp_path):
    run_driver(objects, tmp_path, "neon_bf16")


def test_the_peak_loops_of_blocks_count_every_operation_under_the_emulator(tmp_path):
    source = tmp_path / "peak.cpp"
    source.write_text("""
#include "peak/neon_bf16.cpp"
int main() {
  using namespace pyhpc::peak;
  return neon_bf16.bfloat16.run(1) == block_operations && neon_bf16.int8().run(1) == block_operations ? 0 : 1;
}
""")
    subprocess.run([COMPILER, "-static", *FLAGS, *flags_of("neon_bf16"), source, "-o", tmp_path / "peak"], check=True)
    subprocess.run([EMULATOR, "-cpu", "max", tmp_path / "peak"], check=True, timeout=60)


@pytest.mark.parametrize("target", ["generic", *NEON])
def test_a_target_object_defines_its_variant_alone(objects, target):
    listing = subprocess.run(
        [NM, "--demangle", "--defined-only", "--extern-only", objects[target]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [line.split(maxsplit=2)[2] for line in listing.splitlines()] == [f"pyhpc::matmul::{target}"]
