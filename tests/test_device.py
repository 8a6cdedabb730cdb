"""pyhpc.device: without a GPU it says why; with a pretended one its arrays keep shape, dtype and bytes."""

from __future__ import annotations

import builtins
import importlib
import sys

import ml_dtypes
import numpy as np
import pytest

from pyhpc import device
from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels.data import DTYPES
from pyhpc.native import cuda_absence


class Memory:
    """A pretended _cuda.Memory, in CPU memory."""

    def __init__(self, size, ordinal):
        self.bytes, self.device, self.content = size, ordinal, bytes(size)
        self.pointer = 4096

    def copy_from(self, host, stream=0):
        assert host.flags.c_contiguous
        self.content = host.tobytes()

    def copy_to(self, host, stream=0):
        host.reshape(-1).view(np.uint8)[:] = np.frombuffer(self.content, np.uint8)


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(device, "cuda", lambda: type("cuda", (), {"Memory": Memory}))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 7)])
def test_an_array_comes_back_from_the_device_as_it_went(pretended, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(DTYPES[dtype])
    there = device.to_device(array)
    back = device.to_host(there)
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


def test_bfloat16_has_the_type_string_that_pytorch_gives_it(pretended):
    array = np.arange(3).astype(ml_dtypes.bfloat16)
    there = device.to_device(array)
    assert there.__cuda_array_interface__["typestr"] == "<V2"
    assert device.to_host(there).tobytes() == array.tobytes()


def test_a_dtype_that_no_kernel_takes_is_refused(pretended):
    with pytest.raises(Unsupported, match="no kernel takes complex128"):
        device.to_device(np.zeros(3, complex))


def test_a_strided_array_is_made_contiguous(pretended):
    array = np.arange(24.0).reshape(4, 6)[::-2, ::3]
    np.testing.assert_array_equal(device.to_host(device.to_device(array)), array)


def test_other_libraries_see_shape_type_and_address(pretended):
    interface = device.to_device(np.zeros((2, 3), np.float32)).__cuda_array_interface__
    assert interface == {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "strides": None, "version": 3}


def test_an_array_larger_than_its_memory_is_refused(pretended):
    with pytest.raises(InvalidArgument, match="24 bytes"):
        device.to_host(device.DeviceArray(Memory(24, 0), (4,), np.dtype(float)))


@pytest.mark.skipif(cuda_absence() is None, reason="there is a GPU")
def test_without_a_gpu_the_sentence_says_why():
    with pytest.raises(Unsupported, match="CUDA is absent because"):
        device.to_device(np.zeros(3))


def test_without_cupy_the_sentence_says_what_to_install(monkeypatch):
    def missing(name, *rest):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        Unsupported, match=r"CuPy is absent because No module named 'cupy'; pip install 'pyhpc\[cuda\]'"
    ):
        device.cupy()


def test_importing_device_loads_no_gpu_library(monkeypatch):
    loaded = []
    real = builtins.__import__

    def recording(name, *rest):
        loaded.append(name.partition(".")[0])
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "pyhpc.device")
    monkeypatch.setattr(builtins, "__import__", recording)
    importlib.import_module("pyhpc.device")
    assert not {"cupy", "torch", "numba", "pynvml", "_cuda"} & set(loaded)


def run(**changed):
    return device.Run("matmul", "sm80", "A100", "2026-01-31", "bfloat16 8x8x8", "3 TFLOP/s")._replace(**changed)


def test_a_variant_that_no_gpu_has_run_says_so(monkeypatch):
    assert device.status("nothing", "sm80") == "compiled only: never ran on a GPU"
    monkeypatch.setattr(device, "runs", lambda: (run(), run(gpu="H200", date="2026-02-01")))
    assert device.status("matmul", "sm80") == "ran on H200, 2026-02-01: bfloat16 8x8x8, 3 TFLOP/s"
    assert device.status("matmul", "sm90") == "compiled only: never ran on a GPU"


def test_a_run_is_recorded_once_and_a_newer_one_of_the_same_takes_its_place(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text("[]")
    device.record([run(), run(variant="sm90")], path)
    device.record([run(date="2026-03-01", rate="4 TFLOP/s")], path)
    assert device.runs(path) == (run(variant="sm90"), run(date="2026-03-01", rate="4 TFLOP/s"))
    device.record([], path)
    assert len(device.runs(path)) == 2


def test_the_recorded_runs_of_this_tree_can_be_read():
    assert all(len(found.date) == 10 and found.gpu for found in device.runs())
