"""The all-reduce engine with threads for ranks: its results over every way, under ThreadSanitizer, and on Arm."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "csrc"
WAYS = ["lines", "staging", "single_copy", "window", "windows", "half_windows", "network", "mixed", "disagree"]
ARM_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def compile_driver(folder, compiler, *flags):
    driver = folder / "driver"
    sources = [Path(__file__).with_name("allreduce_driver.cpp"), SOURCE / "allreduce/generic.cpp"]
    words = [
        compiler,
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        f"-I{SOURCE}",
        *flags,
        *sources,
    ]
    subprocess.run([*words, "-o", driver, "-lpthread"], check=True)
    return driver


@pytest.fixture(scope="module")
def checked_driver(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile the driver with")
    return compile_driver(tmp_path_factory.mktemp("driver"), "g++", "-fsanitize=thread", "-g")


@pytest.mark.parametrize("way", WAYS)
def test_threads_that_stand_for_ranks_give_exact_sums_without_a_race(checked_driver, way):
    done = subprocess.run([checked_driver, "5", way], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, f"{way} right\n"), done.stdout + done.stderr


@pytest.mark.skipif(
    shutil.which(ARM_COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"not installed: {ARM_COMPILER} or {EMULATOR}",
)
def test_the_engine_gives_exact_sums_on_an_emulated_arm_processor(tmp_path):
    driver = compile_driver(tmp_path, ARM_COMPILER, "-static")
    # The emulator's process_vm_readv is the host's, which knows other addresses; memfd and threads it has.
    done = subprocess.run([EMULATOR, driver, "3", "staging", "network"], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "staging right\nnetwork right\n"), done.stdout + done.stderr
