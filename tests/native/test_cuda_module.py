"""_cuda imports everywhere and says in one sentence why it cannot work; pretended drivers show each reason."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pyhpc.errors import DeviceError, InvalidArgument
from pyhpc.native import cpu

native = pytest.importorskip("pyhpc._cuda", reason="this build has no CUDA module", exc_type=ImportError)

KERNELS = ["matmul", "attention", "allreduce", "memory", "peak"]


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


without_driver = pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver")
with_gpu = pytest.mark.skipif(native.absence() is not None, reason=f"CUDA is absent because {native.absence()}")

# A libcuda.so.1 with the three functions that come before any GPU is asked for.
DRIVER = """
#include <dlfcn.h>
#include <stddef.h>
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { (void)flags; return INIT; }
int cuGetProcAddress_v2(const char* name, void** address, int version, unsigned long long flags, int* found) {
  (void)version, (void)flags;
  *address = dlsym(RTLD_DEFAULT, name);
  if (found) *found = *address ? 0 : 1;
  return *address ? 0 : 500;
}
int cuGetProcAddress(const char* name, void** address, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, address, version, flags, NULL);
}
"""


def absence_with_driver(folder, version, init):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("a pretended driver is compiled with gcc, which is not on PATH")
    source = folder / "driver.c"
    source.write_text(DRIVER)
    options = ["-shared", "-fPIC", f"-DVERSION={version}", f"-DINIT={init}", "-ldl"]
    subprocess.run([compiler, str(source), *options, "-o", str(folder / "libcuda.so.1")], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "CUDA_VISIBLE_DEVICES": "7"}
    code = "from pyhpc import _cuda; print(_cuda.absence())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@without_driver
def test_without_a_driver_absence_names_the_missing_library():
    assert native.absence() == "there is no NVIDIA driver (libcuda.so.1 was not found)"


def test_an_old_driver_is_named_with_both_versions(tmp_path):
    reason = absence_with_driver(tmp_path, 12040, 0)
    assert reason == "the NVIDIA driver supports CUDA 12.4, but this build needs CUDA 13.0 or newer"


def test_a_driver_that_sees_no_gpu_is_told_apart_from_no_driver(tmp_path):
    assert absence_with_driver(tmp_path, 13000, 100) == "no GPU is visible (CUDA_VISIBLE_DEVICES='7')"


def test_a_driver_that_cannot_start_gives_the_error_of_cuda(tmp_path):
    reason = absence_with_driver(tmp_path, 13000, 999)
    assert reason.startswith("the NVIDIA driver cannot start (cudaError")


@without_driver
def test_device_queries_without_a_driver_raise_device_errors_with_the_name_of_the_error():
    for query in (
        native.devices,
        native.Event,
        lambda: native.Memory(16),
        lambda: native.pointer_device(16),
        native.synchronize,
    ):
        with pytest.raises(DeviceError, match="failed: cudaError"):
            query()


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_lists_its_targets_with_the_reason_why_they_cannot_run(kernel):
    variants = getattr(native, kernel).variants()
    assert [name for name, _ in variants] == (["sm90", "sm80"] if kernel in ("matmul", "peak") else ["sm80"])
    if native.absence() is not None:
        assert {reason for _, reason in variants} == {native.absence()}


def test_arrays_in_cpu_memory_are_refused_with_a_sentence():
    square, vector = np.ones((4, 4)), np.ones(4)
    heads = np.ones((1, 1, 4, 16), np.float32)
    for call in (
        lambda: native.matmul.run(square, square, np.ones((4, 4))),
        lambda: native.attention.run(heads, heads, heads, np.ones_like(heads)),
        lambda: native.allreduce.reduce(vector, vector, np.ones(4), "sum"),
        lambda: native.memory.run("copy", vector, None, np.ones(4)),
    ):
        with pytest.raises(InvalidArgument, match=r"^[aq] is in CPU memory; move it to the GPU"):
            call()


def test_the_arguments_are_refused_with_the_sentences_of_the_cpu():
    cases = [
        (lambda m: m.matmul.run(np.ones((2, 3)), np.ones((4, 2)), np.ones((2, 2))), "columns"),
        (lambda m: m.allreduce.reduce(np.ones(3), np.ones(3), np.ones(4), "sum"), "elements"),
        (lambda m: m.allreduce.reduce(np.ones(3), np.ones(3), np.ones(3), "xor"), "op is 'xor'"),
        (lambda m: m.memory.run("write", None, None, np.ones(3)), "op is 'write'"),
        (lambda m: m.attention.run(*(np.ones((1, 1, 4, 16), np.float64) for _ in range(4))), "attention takes"),
    ]
    for call, part in cases:
        sentences = []
        for module in (cpu(), native):
            with pytest.raises(InvalidArgument, match=part) as caught:
                call(module)
            sentences.append(str(caught.value))
        assert sentences[0] == sentences[1]


def test_the_plan_of_a_product_is_told_without_a_gpu():
    table = native.matmul.explain(4096, 4096, 4096)
    assert [line.split()[:3] for line in table.splitlines() if line.startswith("*")] == [["*", "128x256", "as"]]
    with pytest.raises(InvalidArgument, match="not positive"):
        native.matmul.explain(0, 1, 1)


def test_the_module_needs_no_library_of_cuda_to_load():
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not on PATH")
    needed = subprocess.run([readelf, "-d", native.__file__], capture_output=True, text=True, check=True).stdout
    assert "libcuda" not in needed
    assert "libcudart" not in needed


@with_gpu
def test_memory_keeps_bytes_and_events_count_time():
    host, back = np.arange(1000.0), np.zeros(1000)
    memory, start, end = native.Memory(host.nbytes), native.Event(), native.Event()
    start.record()
    memory.copy_from(host)
    end.record()
    memory.copy_to(back)
    np.testing.assert_array_equal(back, host)
    assert native.pointer_device(memory.pointer) == memory.device
    assert end.seconds_since(start) >= 0
