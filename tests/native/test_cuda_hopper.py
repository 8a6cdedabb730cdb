"""The sm90 matmul, run on the CPU thread by thread (csrc/core/cuda_hopper_emulation.h), against float64 products.

Copies and matrix instructions are made at once in the first run and as late as possible in the second, which must give
the same bits: a stage that is read before it is full, or filled while it is read, gives a wrong result in one of them.
"""

from __future__ import annotations

import ctypes
import itertools

import ml_dtypes
import numpy as np
import pytest

from pyhpc.measure import multiprocessors

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(x) for x in (np.float64, np.float32, np.float16, BFLOAT16)]  # in the order of DType, core/array.h


class Array(ctypes.Structure):
    """pyhpc::Array (core/array.h)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("shape", ctypes.c_int64 * 8),
        ("strides", ctypes.c_int64 * 8),
        ("writable", ctypes.c_bool),
        ("device", ctypes.c_int),
    )


class Forced(ctypes.Structure):
    """A plan: with no columns, the one that the cost model chooses."""

    _fields_ = (
        ("exchanged", ctypes.c_bool),
        ("columns", ctypes.c_int),
        ("cluster_rows", ctypes.c_int),
        ("split", ctypes.c_int),
    )


CHOSEN = Forced(False, 0, 0, 0)
MODES = [(1, 1), (2, 1), (1, 2), (1, 4), (1, 8)]  # cluster_rows, split


def view(array):
    strides = [step // array.itemsize for step in array.strides]
    sizes = (ctypes.c_int64 * 8)(*array.shape), (ctypes.c_int64 * 8)(*strides)
    return Array(array.ctypes.data, DTYPES.index(array.dtype), array.ndim, *sizes, array.flags.writeable, 0)


@pytest.fixture(scope="module")
def library(compiled):
    loaded = compiled("cuda_hopper_emulation")
    loaded.matmul.restype, loaded.count_records.restype = ctypes.c_char_p, ctypes.c_int64
    return loaded


def aligned(shape, dtype, seed=None, layout="C"):
    """An array that begins at 16 bytes: random, or poisoned."""
    dtype = np.dtype(dtype)
    order = shape if layout == "C" else (*shape[:-2], shape[-1], shape[-2])
    raw = np.empty(int(np.prod(shape)) * dtype.itemsize + 16, np.uint8)
    start = -raw.ctypes.data % 16
    array = raw[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(order)
    array[...] = 77 if seed is None else np.random.default_rng(seed).standard_normal(order).astype(dtype)
    return array if layout == "C" else array.swapaxes(-1, -2)


def run(library, a, b, out, forced=CHOSEN, accumulate=False, multiprocessors=4):
    """The kernel in both orders, the same bits; the sentence of its refusal, or ""."""
    before, results = out.copy(), []
    for reverse in (False, True):
        out[...] = before
        library.set_reverse_order(reverse)
        arrays = [ctypes.byref(view(x)) for x in (a, b, out)]
        said = library.matmul(*arrays, accumulate, multiprocessors, ctypes.byref(forced)).decode()
        if said:
            return said
        results.append(out.tobytes())
    assert results[0] == results[1], "the result depends on when asynchronous work is done"
    return ""


def check(library, a, b, out, forced=CHOSEN, accumulate=False, multiprocessors=4):
    exact_a, exact_b = a.astype(np.float64), b.astype(np.float64)
    before = out.astype(np.float64) if accumulate else 0
    exact = exact_a @ exact_b + before
    assert run(library, a, b, out, forced, accumulate, multiprocessors) == ""
    sizes = np.abs(exact_a) @ np.abs(exact_b) + np.abs(before)
    bound = (a.shape[-1] + 2) * 2.0**-24 * sizes
    if out.itemsize == 2:
        bound += float(ml_dtypes.finfo(out.dtype).eps) * np.abs(exact)
    wrong = ~(np.abs(out.astype(np.float64) - exact) <= bound)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} elements, the first at {np.argwhere(wrong)[0]}"


@pytest.mark.parametrize("columns", [256, 128, 64])
@pytest.mark.parametrize("mode", MODES)
def test_every_tile_and_cluster_gives_the_product_of_every_layout(library, columns, mode):
    m, n = 136, 264  # over the tiles
    k = 648 if mode[1] == 1 else 520  # more stages than the ring has; the last is partly outside
    for number, (left, right) in enumerate(itertools.product("CF", repeat=2)):
        dtype, kind = (BFLOAT16, np.float32) if number % 2 else (np.float16, np.float16)
        a, b = aligned((m, k), dtype, 1, left), aligned((k, n), dtype, 2, right)
        check(library, a, b, aligned((m, n), kind), Forced(number > 1, columns, *mode), multiprocessors=99)


@pytest.mark.parametrize("mode", [(1, 1), (2, 1)])
def test_a_block_computes_many_tiles_one_after_another(library, mode):
    a, b = aligned((392, 200), BFLOAT16, 1), aligned((200, 520), BFLOAT16, 2)
    for kind in (np.float32, BFLOAT16):
        check(library, a, b, aligned((392, 520), kind), Forced(False, 128, *mode), multiprocessors=2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 127, 64), (127, 129, 65), (129, 3, 1024), (1, 1, 1), (64, 1, 72)])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_chosen_plan_gives_the_product_of_odd_shapes(library, shape, kind):
    m, n, k = shape
    a = aligned((m, -(-k // 8) * 8), np.float16, 1)[:, :k]
    b = aligned((k, -(-n // 8) * 8), np.float16, 2)[:, :n]
    check(library, a, b, aligned((m, n), kind))


@pytest.mark.parametrize("kind", [np.float32, BFLOAT16])
@pytest.mark.parametrize("mode", [(1, 1), (1, 2)])
def test_the_product_is_added_to_out_exactly_once(library, kind, mode):
    a, b = aligned((130, 136), BFLOAT16, 1), aligned((136, 72), BFLOAT16, 2)
    check(library, a, b, aligned((130, 72), kind, 3), Forced(False, 64, *mode), accumulate=True, multiprocessors=99)


def test_out_of_any_strides_is_written_and_nothing_else(library):
    a, b = aligned((70, 64), BFLOAT16, 1), aligned((64, 50), BFLOAT16, 2, "F")
    whole = aligned((70, 2, 101), np.float32)
    check(library, a, b, whole[:, 1, 99::-2])
    assert (whole[:, 0] == 77).all()
    assert (whole[:, 1, 0::2] == 77).all()


def test_batches_of_several_dimensions_broadcast(library):
    a, b = aligned((2, 1, 3, 40, 72), BFLOAT16, 1), aligned((5, 1, 72, 24), BFLOAT16, 2)
    check(library, a, b, aligned((2, 5, 3, 40, 24), np.float32))
    check(library, a[:, 0], b[0, 0], aligned((2, 3, 40, 24), BFLOAT16))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: (aligned((8, 9), BFLOAT16, 1), aligned((9, 8), BFLOAT16, 2)), "a has no contiguous direction"),
        (lambda: (aligned((8, 16), BFLOAT16, 1), aligned((16, 16), BFLOAT16, 2)[:, ::2]), "b has no contiguous"),
        (lambda: (aligned((9, 16), BFLOAT16, 1)[:, 8:][1:], aligned((8, 8), BFLOAT16, 2)[::-1]), "b has no contiguous"),
        (lambda: (aligned((8, 16), BFLOAT16, 1)[:, 1:9], aligned((8, 8), BFLOAT16, 2)), "a does not begin"),
        (lambda: (aligned((8, 0), BFLOAT16), aligned((0, 8), BFLOAT16)), "k is 0"),
        (lambda: (aligned((2, 44), BFLOAT16, 1)[:, :40].reshape(2, 5, 8), None), "the batch has"),
        (lambda: (aligned((8, 8), np.float32, 1), aligned((8, 8), np.float32, 2)), "not of 16 bits"),
    ],
)
def test_what_the_copy_engine_cannot_take_is_refused_with_the_reason(library, make, reason):
    a, b = make()
    b = aligned((2, 8, 8), BFLOAT16, 2) if b is None else b
    out = aligned((*a.shape[:-1], b.shape[-1]), np.float32)
    assert reason in run(library, a, b, out)
    assert (out == 77).all()


# The second product is exchanged and split along k.
@pytest.mark.parametrize(("m", "n", "k", "count", "parts"), [(300, 520, 200, 4, 1), (16, 520, 640, 99, 8)])
def test_the_log_has_every_tile_once_and_names_where_a_wrong_element_was_computed(library, m, n, k, count, parts):
    library.set_multiprocessors(count)
    a, b, out = aligned((m, k), BFLOAT16, 1), aligned((k, n), BFLOAT16, 2), aligned((m, n), np.float32)
    views = [ctypes.byref(view(x)) for x in (a, b, out)]
    words = np.full((library.count_records(*views), 8), -1, np.int64).view(np.uint64)
    assert library.run_logged(*views, ctypes.c_void_p(words.ctypes.data)) == 0
    log = multiprocessors.records(words)
    covered = np.zeros((m, n), int)
    for record in log:
        covered[record.row : record.row + record.rows, record.column : record.column + record.columns] += 1
    assert (covered == parts).all()
    assert len(log) >= parts * -(-m // log[0].rows) * -(-n // log[0].columns)
    assert all(hertz > 0 for hertz in multiprocessors.clock_hertz(log).values())
    named = multiprocessors.culprits(log, np.array([[m - 1, n - 1]]))
    assert sum(named.values()) == parts
