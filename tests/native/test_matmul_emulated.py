"""The matmul variants of Arm processors, compiled by a cross compiler and run under an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "csrc"
COMPILER, NM, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-nm", "qemu-aarch64-static"
MISSING = [tool for tool in (COMPILER, NM, EMULATOR) if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fopenmp", "-fno-math-errno", f"-I{SOURCE}"]


def compile_object(source, folder, *flags):
    result = folder / (source.stem + ".o")
    subprocess.run([COMPILER, *FLAGS, *flags, "-c", source, "-o", result], check=True)
    return result


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aarch64")
    return {
        "workspace": compile_object(SOURCE / "core/workspace.cpp", folder),
        "driver": compile_object(Path(__file__).with_name("matmul_driver.cpp"), folder, "-DPYHPC_DRIVER_VARIANT=neon"),
        "generic": compile_object(SOURCE / "matmul/generic.cpp", folder),
        "neon": compile_object(SOURCE / "matmul/neon.cpp", folder, "-march=armv8.2-a+fp16"),
    }


def test_neon_and_generic_give_exact_sums_under_the_emulator(objects, tmp_path):
    driver = tmp_path / "driver"
    # libgomp.a mentions dlopen, about which a static link warns.
    link = [COMPILER, "-static", "-fopenmp", *objects.values(), "-o", driver]
    subprocess.run(link, check=True, capture_output=True)
    done = subprocess.run([EMULATOR, driver, "generic", "neon"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "generic right\nneon right\n"), done.stdout + done.stderr


@pytest.mark.parametrize("target", ["generic", "neon"])
def test_a_target_object_defines_its_variant_alone(objects, target):
    listing = subprocess.run(
        [NM, "--demangle", "--defined-only", "--extern-only", objects[target]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [line.split(maxsplit=2)[2] for line in listing.splitlines()] == [f"pyhpc::matmul::{target}"]
