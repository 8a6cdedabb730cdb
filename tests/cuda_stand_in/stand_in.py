"""A pretended _cuda: GPUs in main memory, whose matrix product is NumPy's. Work is enqueued, and done when waited for.

The environment variable PYHPC_STAND_IN holds words: `gpus=2` how many there are (0: none is visible), `flip=5` the
copy to the host before which one bit of the memory flips, `lazy=9` after how many executions nothing is computed any
more, `hang=7` the execution that never ends, `bytes=100` the largest piece of memory to be had, `wrong=4` the checked
execution whose element (0, 1) is wrong.
"""

import ctypes
import os
import time
from types import SimpleNamespace

import ml_dtypes
import numpy as np

from pyhpc.errors import DeviceError

WORDS = {"gpus": 1, "flip": -1, "lazy": 1 << 30, "hang": -1, "wrong": -1, "bytes": 1 << 30}
WORDS |= {name: int(value) for name, value in (word.split("=") for word in os.environ["PYHPC_STAND_IN"].split())}

_queue = []
_copies = _executions = 0


def absence():
    return None if WORDS["gpus"] else "no GPU is visible"


def devices():
    return [
        {
            "ordinal": number,
            "name": "NVIDIA Stand-in",
            "uuid": f"GPU-0000{number}",
            "driver_version": 13000,
            "memory_bytes": WORDS["bytes"],
            "compute_capability": (8, 0),
            "l2_bytes": 1024,
            "ecc": True,
        }
        for number in range(WORDS["gpus"])
    ]


def _wait():
    while _queue:
        _queue.pop(0)()


class Event:
    def __init__(self, device=0):
        assert device < WORDS["gpus"]

    def record(self, stream=0):
        self.seconds = None
        _queue.append(lambda: setattr(self, "seconds", time.perf_counter()))

    def synchronize(self):
        _wait()

    def seconds_since(self, start):
        return self.seconds - start.seconds


class Memory:
    def __init__(self, bytes, device=0):
        if bytes > WORDS["bytes"]:
            raise DeviceError(f"allocating {bytes} bytes on the GPU failed: cudaErrorMemoryAllocation: out of memory")
        self.content = np.zeros(bytes, np.uint8)
        self.bytes, self.device, self.pointer = bytes, device, self.content.ctypes.data

    def copy_from(self, host, stream=0):
        _wait()
        self.content[:] = host.reshape(-1).view(np.uint8)

    def copy_to(self, host, stream=0):
        global _copies
        _wait()
        self.content[0] ^= _copies == WORDS["flip"]
        _copies += 1
        host.reshape(-1).view(np.uint8)[:] = self.content


def _array(there):
    """What a kernel sees of an object with __cuda_array_interface__."""
    told = there.__cuda_array_interface__
    dtype = np.dtype(ml_dtypes.bfloat16 if told["typestr"] == "<V2" else told["typestr"])
    size = int(np.prod(told["shape"])) * dtype.itemsize
    strides = told.get("strides")
    if strides is not None:
        size = sum((extent - 1) * step for extent, step in zip(told["shape"], strides, strict=True)) + dtype.itemsize
    content = (ctypes.c_char * size).from_address(told["data"][0])
    return np.ndarray(told["shape"], dtype, content, strides=strides)


def _multiply(a, b, out):
    global _executions
    _executions += 1
    if _executions == WORDS["hang"]:
        time.sleep(1e6)
    if _executions <= WORDS["lazy"]:
        out[...] = (a.astype(np.float64) @ b.astype(np.float64)).astype(out.dtype)


def _scaled(operand, scale, held):
    """An operand with the factor of each element; a scale is of rows, columns or blocks of 128."""
    if held:
        operand = operand.view(getattr(ml_dtypes, held))
    if scale is None:
        return operand
    for axis, size in enumerate(operand.shape):
        if scale.shape[axis] not in (1, size):
            scale = np.repeat(scale, 128, axis).take(range(size), axis)
    return operand.astype(np.float64) * scale


def _enqueue(a, b, out, accumulate, stream, variant, operands="", scale_a=None, scale_b=None, tf32=False):
    assert variant == "sm80"

    def operand(there, scale):
        return _scaled(_array(there), None if scale is None else _array(scale), operands)

    _queue.append(lambda: _multiply(operand(a, scale_a), operand(b, scale_b), _array(out)))


def _checked(a, b, out, accumulate=False, stream=0, variant="", tf32=False):
    _enqueue(a, b, out, accumulate, stream, variant, tf32=tf32)
    _wait()
    if _executions != WORDS["wrong"]:
        return None
    left, right, result = (_array(x).astype(np.float64) for x in (a, b, out))
    _array(out)[0, 1] += 1000
    again = np.stack([left[0] @ right, np.abs(left[0]) @ np.abs(right), _array(out)[0].astype(np.float64)], axis=1)
    return 0, again, np.zeros((result.shape[1], 1)), [(7, 0, 0, 128, 128), (9, 0, 128, 128, 128)]


def _stream(op, a, b, c):
    if op == "read":
        return c.__setitem__(..., a.reshape(len(c), -1).sum(axis=1))
    c[...] = 3.0 if op == "fill" else a + (3.0 * b if op == "triad" else 0.0)


def _enqueue_stream(op, a, b, c, stream, variant):
    assert variant == "sm80"
    _queue.append(lambda: _stream(op, *(None if there is None else _array(there) for there in (a, b, c))))


def _enqueue_count(dtype, blocks, out, stream, variant):
    assert variant == "sm80"
    _queue.append(lambda: _array(out).fill(blocks * (3 << 22)))


attention = SimpleNamespace(variants=lambda: [("sm80", "")])  # can be planned, not run
peak = SimpleNamespace(run=_enqueue_count, variants=lambda: [("sm80", "")])
memory = SimpleNamespace(run=_enqueue_stream, variants=lambda: [("sm80", "")])
matmul = SimpleNamespace(run=_enqueue, run_checked=_checked, variants=lambda: [("sm80", "")])
