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

from pyhpc.kernels.matmul_check import Product, wrong_result_on_gpu
from pyhpc.measure import multiprocessors
from pyhpc.measure.tile_checksums import LINES, TileChecksums

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
E4M3, E5M2 = (np.dtype(x) for x in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2))
# In the order of DType, core/array.h.
DTYPES = [np.dtype(x) for x in (np.float64, np.float32, np.float16, BFLOAT16, *"qihbQIHB", E4M3, E5M2)]


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
        ("rows", ctypes.c_int),
    )


class Options(ctypes.Structure):
    _fields_ = (
        ("accumulate", ctypes.c_bool),
        ("tf32", ctypes.c_bool),
        ("multiprocessors", ctypes.c_int),
        ("factor", ctypes.c_float),
        ("scale_a", ctypes.POINTER(Array)),
        ("scale_b", ctypes.POINTER(Array)),
    )


def options_of(accumulate=False, tf32=False, multiprocessors=4, factor=1.0, scale_a=None, scale_b=None):
    scales = [None if x is None else ctypes.pointer(view(x)) for x in (scale_a, scale_b)]
    return Options(accumulate, tf32, multiprocessors, factor, *scales)


def plan(columns, cluster_rows=1, split=1, *, exchanged=False, rows=128):
    return Forced(exchanged, columns, cluster_rows, split, rows)


CHOSEN = plan(0)
MODES = [(1, 1), (2, 1), (1, 2), (1, 4), (1, 8)]  # cluster_rows, split


def view(array):
    strides = [step // array.itemsize for step in array.strides]
    sizes = (ctypes.c_int64 * 8)(*array.shape), (ctypes.c_int64 * 8)(*strides)
    return Array(array.ctypes.data, DTYPES.index(array.dtype), array.ndim, *sizes, array.flags.writeable, 0)


@pytest.fixture(scope="module")
def library(compiled):
    loaded = compiled("cuda_hopper_emulation")
    loaded.matmul.restype, loaded.count_records.restype = ctypes.c_char_p, ctypes.c_int64
    loaded.run_checked.restype = ctypes.c_char_p
    return loaded


def aligned(shape, dtype, seed=None, layout="C"):
    """An array that begins at 16 bytes: random, or poisoned."""
    dtype = np.dtype(dtype)
    order = shape if layout == "C" else (*shape[:-2], shape[-1], shape[-2])
    raw = np.empty(int(np.prod(shape)) * dtype.itemsize + 16, np.uint8)
    start = -raw.ctypes.data % 16
    array = raw[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(order)
    random = np.random.default_rng(seed)
    values = random.integers(-128, 128, order) if dtype.kind == "i" else random.standard_normal(order)
    array[...] = 77 if seed is None else values.astype(dtype)
    return array if layout == "C" else array.swapaxes(-1, -2)


def run(library, a, b, out, forced=CHOSEN, **rest):
    """The kernel in both orders, the same bits; the sentence of its refusal, or ""."""
    before, results, options = out.copy(), [], options_of(**rest)
    for reverse in (False, True):
        out[...] = before
        library.set_reverse_order(reverse)
        arrays = [ctypes.byref(view(x)) for x in (a, b, out)]
        said = library.matmul(*arrays, ctypes.byref(options), ctypes.byref(forced)).decode()
        if said:
            return said
        results.append(out.tobytes())
    assert results[0] == results[1], "the result depends on when asynchronous work is done"
    return ""


def spread(scale, shape):
    """The factor of every element of an operand."""
    whole = np.ones((1, 1)) if scale is None else scale.astype(np.float64)
    for axis, size in enumerate(shape):
        if whole.shape[axis] not in (1, size):
            whole = np.repeat(whole, 128, axis)[: size if axis == 0 else None, : size if axis == 1 else None]
    return np.broadcast_to(whole, shape)


def check(library, a, b, out, forced=CHOSEN, **rest):
    """The product of two matrices, or of batches of them, within the proven bound."""
    exact_a, exact_b = a.astype(np.float64), b.astype(np.float64)
    if a.ndim == 2:
        exact_a, exact_b = (
            x * spread(rest.get(name), x.shape) for x, name in ((exact_a, "scale_a"), (exact_b, "scale_b"))
        )
    exact_a = exact_a * rest.get("factor", 1.0)
    before = out.astype(np.float64) if rest.get("accumulate") else 0
    exact = exact_a @ exact_b + before
    assert run(library, a, b, out, forced, **rest) == ""
    sizes = np.abs(exact_a) @ np.abs(exact_b) + np.abs(before)
    bound = (a.shape[-1] + 6) * 2.0**-24 * sizes
    if rest.get("tf32"):
        bound += (2.0**-9 + 2.0**-20) * sizes  # each operand is cut off to 10 bits
    if out.itemsize == 2:
        bound += float(ml_dtypes.finfo(out.dtype).eps) * np.abs(exact)
    if out.dtype == np.int32:
        bound, exact = 0, exact.astype(np.int64).astype(np.int32)
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
        check(library, a, b, aligned((m, n), kind), plan(columns, *mode, exchanged=number > 1), multiprocessors=99)


@pytest.mark.parametrize("mode", [(1, 1), (2, 1)])
def test_a_block_computes_many_tiles_one_after_another(library, mode):
    a, b = aligned((392, 200), BFLOAT16, 1), aligned((200, 520), BFLOAT16, 2)
    for kind in (np.float32, BFLOAT16):
        check(library, a, b, aligned((392, 520), kind), plan(128, *mode), multiprocessors=2)


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
    check(library, a, b, aligned((130, 72), kind, 3), plan(64, *mode), accumulate=True, multiprocessors=99)


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
        (lambda: (aligned((8, 8), np.float32, 1), aligned((8, 8), np.float32, 2)), "would round float32 to TF32"),
        (
            lambda: (aligned((8, 32), np.int8, 1), aligned((32, 16), np.int8, 2)),
            "b's columns are not contiguous along k",
        ),
        (
            lambda: (aligned((16, 32), E4M3, 1, "F"), aligned((32, 16), E4M3, 2, "F")),
            "a's rows are not contiguous along",
        ),
    ],
)
def test_what_the_copy_engine_cannot_take_is_refused_with_the_reason(library, make, reason):
    a, b = make()
    b = aligned((2, 8, 8), BFLOAT16, 2) if b is None else b
    out = aligned((*a.shape[:-1], b.shape[-1]), np.int32 if a.dtype == np.int8 else np.float32)
    assert reason in run(library, a, b, out)
    assert (out == 77).all()


# ---- operands of 8 and 32 bits: contiguous along k ----

OTHERS = {
    "e4m3": (E4M3, BFLOAT16),
    "e5m2": (E5M2, np.float16),
    "int8": (np.int8, np.int32),
    "tf32": (np.float32, np.float32),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("number", range(5))
def test_every_element_type_gives_the_product_by_every_mode(library, kind, number):
    dtype, out = OTHERS[kind]
    forced = plan((256, 64, 128)[number % 3], *MODES[number], exchanged=number % 2 == 1)
    m, n, k = 136, 72, 1040 // np.dtype(dtype).itemsize  # 9 stages
    a, b = aligned((m, k), dtype, 1), aligned((k, n), dtype, 2, "F")
    check(library, a, b, aligned((m, n), out), forced, tf32=kind == "tf32", multiprocessors=99)


@pytest.mark.parametrize("shape", [(1, 8, 16), (3, 127, 33), (127, 129, 65), (129, 3, 257), (1, 1, 1)])
@pytest.mark.parametrize("kind", OTHERS)
def test_the_chosen_plan_gives_the_product_of_every_element_type_and_odd_shape(library, shape, kind):
    dtype, (m, n, k) = OTHERS[kind][0], shape
    a = aligned((m, -(-k // 16) * 16), dtype, 1)[:, :k]
    b = aligned((-(-k // 16) * 16, n), dtype, 2, "F")[:k]
    check(library, a, b, aligned((m, n), np.int32 if kind == "int8" else np.float32), tf32=kind == "tf32")


def test_int8_sums_wrap_around_and_are_added_to_out(library):
    a, b = aligned((3, 48), np.int8, 1), aligned((48, 5), np.int8, 2, "F")
    out = aligned((3, 5), np.int32)
    out[...] = 2**31 - 1000
    check(library, a, b, out, accumulate=True)


def scales(*shape):
    return np.random.default_rng(3).uniform(0.25, 4, shape).astype(np.float32)


@pytest.mark.parametrize("number", range(4))
def test_scales_of_the_whole_of_rows_and_of_columns_multiply_the_product(library, number):
    of_a, of_b = scales(130 if number & 1 else 1, 1), scales(1, 70 if number & 2 else 1)
    a, b = aligned((130, 144), E4M3, 1), aligned((144, 70), E4M3, 2, "F")
    for forced in (plan(64, 2), plan(64, 1, 2, exchanged=True)):
        out = aligned((130, 70), (np.float32, BFLOAT16)[number % 2])
        check(library, a, b, out, forced, scale_a=of_a, scale_b=of_b, factor=0.75, multiprocessors=99)


@pytest.mark.parametrize("mode", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(("rows", "dtype"), [(128, E5M2), (256, E4M3)])
def test_scales_along_k_multiply_every_stage(library, rows, dtype, mode):
    m, n, k = 265, 130, 528
    a, b = aligned((m, k), dtype, 1), aligned((k, n), dtype, 2, "F")
    out = aligned((m, n), (np.float32, BFLOAT16)[mode[0] - 1])
    rest = {"scale_a": scales(m, 5), "scale_b": scales(5, 2), "factor": 0.5, "multiprocessors": 99}
    check(library, a, b, out, plan(128, *mode, rows=rows), **rest)


def test_a_block_promotes_many_tiles_one_after_another_and_one_scale_may_serve_all(library):
    a, b = aligned((150, 144), E4M3, 1), aligned((144, 260), E4M3, 2, "F")
    check(library, a, b, aligned((150, 260), np.float16), scale_a=scales(150, 2), multiprocessors=1)
    check(library, a, b, aligned((150, 260), np.float32), scale_b=scales(2, 3), multiprocessors=2)
    transposed = scales(2, 150).T
    check(library, a, b, aligned((150, 260), np.float32), scale_a=transposed, scale_b=scales(1, 1))


@pytest.mark.parametrize(
    ("scale_a", "scale_b", "reason"),
    [
        (scales(3, 2), None, "scale_a has shape (3, 2); it must be (1,), (10, 1) or, for every 128 of k, (10, 2)"),
        (None, scales(20, 1), "scale_b has shape (20, 1); it must be (1,), (1, 20) or, for every 128 of k, (2, 1)"),
        (scales(10, 2), scales(1, 20), "scale_a changes every 128 of k, but scale_b every column"),
        (scales(1).astype(np.float16), None, "scale_a is float16; scales are float32"),
    ],
)
def test_scales_that_do_not_fit_are_refused_with_the_shapes_that_do(library, scale_a, scale_b, reason):
    a, b, out = aligned((10, 144), E4M3, 1), aligned((144, 20), E4M3, 2, "F"), aligned((10, 20), np.float32)
    assert run(library, a, b, out, scale_a=scale_a, scale_b=scale_b).startswith(reason)
    assert "8-bit" in run(library, aligned((8, 8), BFLOAT16), aligned((8, 8), BFLOAT16), out[:8, :8], factor=2.0)


# The second product is exchanged and split along k.
@pytest.mark.parametrize(("m", "n", "k", "count", "parts"), [(300, 520, 200, 4, 1), (16, 520, 640, 99, 8)])
def test_the_log_has_every_tile_once_and_names_where_a_wrong_element_was_computed(library, m, n, k, count, parts):
    library.set_multiprocessors(count)
    a, b, out = aligned((m, k), BFLOAT16, 1), aligned((k, n), BFLOAT16, 2), aligned((m, n), np.float32)
    views = [ctypes.byref(view(x)) for x in (a, b, out)]
    words = np.full((library.count_records(*views), 8), -1, np.int64).view(np.uint64)
    assert library.run_logged(*views, ctypes.c_void_p(words.ctypes.data), None) == 0
    log = multiprocessors.records(words)
    covered = np.zeros((m, n), int)
    for record in log:
        covered[record.row : record.row + record.rows, record.column : record.column + record.columns] += 1
    assert (covered == parts).all()
    assert len(log) >= parts * -(-m // log[0].rows) * -(-n // log[0].columns)
    assert all(hertz > 0 for hertz in multiprocessors.clock_hertz(log).values())
    named = multiprocessors.culprits(log, np.array([[m - 1, n - 1]]))
    assert sum(named.values()) == parts


# As above, the second by parts of k; the third is a batch.
@pytest.mark.parametrize(
    ("batch", "m", "n", "k", "count", "parts"),
    [((), 300, 520, 200, 4, 1), ((), 16, 520, 640, 99, 8), ((3,), 70, 136, 64, 4, 1)],
)
def test_a_checked_product_names_the_wrong_element_its_tile_and_all_that_computed_it(
    library, batch, m, n, k, count, parts
):
    library.set_multiprocessors(count)
    a, b = aligned((*batch, m, k), BFLOAT16, 1), aligned((*batch, k, n), BFLOAT16, 2)
    row = 3 if batch else m - 2  # where the tile of the matrix before would end, if it went on
    out, place = aligned((*batch, m, n), np.float32), (*(1 for _ in batch), row, n - 3)
    again, before, told = np.full((n, 3), np.nan), np.full((n, 1), np.nan), np.full(5000, -9)
    written = [ctypes.c_void_p(x.ctypes.data) for x in (again, before, told)]
    for spoil in (lambda: None, lambda: out.__setitem__(place, 1e3)):
        assert told[0] in (-9, -1)
        views = [ctypes.byref(view(x)) for x in (a, b, out)]
        assert library.run_checked(*views, ctypes.CFUNCTYPE(None)(spoil), *written) == b""
    tiles = told[2 : 2 + 5 * told[1]].reshape(-1, 5).tolist()
    product = Product(a.dtype, out.dtype, k, False, on_gpu=True)
    error = wrong_result_on_gpu((int(told[0]), again, before, tiles), out.shape, product)
    assert (error.index, error.found, len(error.multiprocessors)) == (place, 1e3, parts)
    exact = a[place[:-1]].astype(float) @ b[(*place[:-2], slice(None), place[-1])].astype(float)
    assert error.expected == pytest.approx(exact)
    rows, columns = error.tile
    assert rows.start <= row < rows.stop <= m
    assert columns.start <= n - 3 < columns.stop <= n


def checksums_of(library, a, b, out):
    """The log, the sums that the kernel wrote and what they must be."""
    library.set_multiprocessors(12)
    views = [ctypes.byref(view(x)) for x in (a, b, out)]
    count = library.count_records(*views)
    words, sums = np.zeros((count, 8), np.uint64), np.full((count, LINES, 2), np.nan, np.float32)
    pointers = (ctypes.c_void_p(x.ctypes.data) for x in (words, sums))
    assert library.run_logged(*views, *pointers) == 0
    log = multiprocessors.records(words)
    return log, sums, TileChecksums.of(log, a, b, a.itemsize)


@pytest.mark.parametrize(
    ("m", "n", "k", "dtype", "shift", "plan_name"),
    [
        (300, 520, 200, BFLOAT16, 0, ""),
        (300, 520, 200, BFLOAT16, 3, ""),  # sums that grow all the way
        (16, 130, 272, np.float16, 0, "64,1,4,1"),  # transposed, and split along k
        (130, 70, 272, E4M3, 0, "64,2,1,1"),
        (130, 70, 272, np.int8, 0, ""),
    ],
)
def test_the_sums_of_the_lines_of_every_tile_are_those_of_the_product(
    library, monkeypatch, m, n, k, dtype, shift, plan_name
):
    monkeypatch.setenv("PYHPC_SM90_PLAN", plan_name)
    a, b = aligned((m, k), dtype, 1), aligned((k, n), dtype, 2, "F")
    if shift:
        a[...], b[...] = (a.astype(float) + shift).astype(dtype), (b.astype(float) + shift).astype(dtype)
    out = aligned((m, n), np.int32 if dtype == np.int8 else np.float32)
    log, sums, checksums = checksums_of(library, a, b, out)
    sums = sums.view(np.int32) if dtype == np.int8 else sums
    assert {record.transposed for record in log} == {plan_name.endswith("1")}
    assert checksums.wrong(log, sums) == []
    # An element that is wrong by a quarter of a typical one is found, and its multiprocessor named.
    number = next(i for i, r in enumerate(log) if r.row + r.column > 0 and r.row < m and r.column < n)
    sums[number, 1, 0] += 1 if dtype == np.int8 else 0.25 * out.std()
    (wrong,) = checksums.wrong(log, sums)
    assert log[number].multiprocessor in wrong.multiprocessors
    assert wrong.line == (log[number].column if log[number].transposed else log[number].row) + 1
    if dtype != np.int8:
        sums[number, 1, 0] = np.nan
        assert len(checksums.wrong(log, sums)) == 1
