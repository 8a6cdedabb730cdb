"""The CUDA kernels, run on the CPU thread by thread (csrc/core/cuda_emulation.h), against float64 references."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from pyhpc.kernels.matmul_check import Product, wrong_result_on_gpu

ROOT = Path(__file__).parents[2]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {  # in the order of DType, core/array.h
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    **{f"int{bits}": np.dtype(f"int{bits}") for bits in (64, 32, 16, 8)},
    **{f"uint{bits}": np.dtype(f"uint{bits}") for bits in (64, 32, 16, 8)},
}
FLOAT8 = [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]  # follow those
PRODUCTS = {"float64": "float64", "float32": "float32", "bfloat16": "float32", "float16": "float32", "int8": "int32"}
UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


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


def view(array: np.ndarray) -> Array:
    dtype = [*DTYPES.values(), *FLOAT8].index(array.dtype)
    strides = [step // array.itemsize for step in array.strides]
    sizes = (ctypes.c_int64 * 8)(*array.shape), (ctypes.c_int64 * 8)(*strides)
    return Array(array.ctypes.data, dtype, array.ndim, *sizes, array.flags.writeable, 0)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """call(function, *arguments): runs a kernel with its threads in order and in reverse order, which must give the
    same bits, and raises ValueError with its sentence."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the CUDA kernels are emulated by g++, which is not on PATH")
    path = tmp_path_factory.mktemp("cuda") / "cuda_emulation.so"
    options = ["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]
    options.append("-fno-gnu-unique")  # the state of the emulation is this library's own
    source = str(ROOT / "tests/native/cuda_emulation.cpp")
    subprocess.run([compiler, *options, f"-I{ROOT / 'csrc'}", source, "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))

    def once(function, arguments):
        native = getattr(library, function)
        native.restype = ctypes.c_char_p
        error = native(*(ctypes.byref(view(x)) if isinstance(x, np.ndarray) else x for x in arguments)).decode()
        if error:
            raise ValueError(error)

    def call(function, *arguments):
        written = [x for x in arguments if isinstance(x, np.ndarray)]
        before = [x.copy() for x in written]
        once(function, arguments)
        first = [x.copy() for x in written]
        for x, old in zip(written, before, strict=True):
            if x.flags.writeable:
                x[...] = old
        library.set_reverse_order(True)
        once(function, arguments)
        library.set_reverse_order(False)
        for x, result in zip(written, first, strict=True):
            assert x.tobytes() == result.tobytes(), "the result depends on the order in which threads run"

    call.library = library
    return call


def random(shape, dtype, seed=7):
    generator = np.random.default_rng(seed)
    if dtype.startswith(("int", "uint")):
        info = np.iinfo(dtype)
        return generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return generator.standard_normal(shape).astype(DTYPES[dtype])


# ---- matmul ----


def check_product(emulated, a, b, out, dtype, accumulate=False):
    wide = np.int64 if dtype == "int8" else np.float64
    before = out.astype(wide) if accumulate else 0
    exact = a.astype(wide) @ b.astype(wide) + before
    emulated("matmul", a, b, out, accumulate)
    if dtype == "int8":
        np.testing.assert_array_equal(out, exact)
    else:
        sizes = np.abs(a.astype(wide)) @ np.abs(b.astype(wide)) + np.abs(before)
        assert (np.abs(out - exact) <= (a.shape[-1] + 2) * np.finfo(out.dtype).eps * sizes).all()


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 0), (3, 0, 4), (63, 65, 17), (65, 64, 67), (129, 131, 33)])
def test_matmul_is_the_exact_product_within_rounding_for_shapes_around_the_tiles(emulated, dtype, shape):
    m, n, k = shape
    out = np.full((m, n), 77, PRODUCTS[dtype])
    check_product(emulated, random((m, k), dtype), random((k, n), dtype, 8), out, dtype)


def checked(emulated, a, b, out, accumulate=False, spoil=lambda: None):
    """The error that matmul(a, b, check=True) would raise on a GPU, or None; `spoil` changes out when it is made."""
    n, old = out.shape[-1], out.copy()
    again, before, told = np.full((n, 3), np.nan), np.full((n, 1), np.nan), np.full(5000, -9)

    def made():
        spoil()

    emulated("checked_matmul", a, b, out, accumulate, ctypes.CFUNCTYPE(None)(made), again, before, told)
    if told[0] < 0:
        return None
    tiles = told[2 : 2 + 5 * told[1]].reshape(-1, 5).tolist()
    product = Product(a.dtype, out.dtype, a.shape[-1], accumulate, on_gpu=True)
    return wrong_result_on_gpu((int(told[0]), again, before, tiles), old.shape, product)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("out_dtype", [*PRODUCTS.items(), ("bfloat16", "bfloat16"), ("float16", "float16")])
def test_a_checked_product_passes_and_a_wrong_element_is_named_with_its_tile(emulated, out_dtype, accumulate):
    dtype, result = out_dtype
    change = 40  # beyond what rounding to 16 bits can do to the sum of a row
    a, b = random((2, 150, 40), dtype)[:, ::-1], random((40, 130), dtype, 8).T.copy().T
    out = np.full((2, 130, 150), 3, DTYPES[result]).swapaxes(1, 2)
    assert checked(emulated, a, b, out, accumulate) is None
    right = out[1, 141, 5].item()

    def spoil():
        out[1, 141, 5] = np.array(right + change).astype(out.dtype)

    out[...] = 3
    error = checked(emulated, a, b, out, accumulate, spoil)
    assert (error.index, error.found) == ((1, 141, 5), out[1, 141, 5].item())
    assert abs(error.expected - right) <= error.tolerance < change
    columns = 64 if dtype == "float64" else 128  # of a tile
    assert error.tile == (slice(128, 150), slice(0, columns))
    block = (1 * 2 + 1) * -(-130 // columns)
    assert error.multiprocessors == (block % 4,)
    assert f"multiprocessor {block % 4}, which computed the tile [128:150, 0:{columns}], or the memory" in str(error)


def test_a_checked_product_without_elements_or_without_k_has_nothing_wrong(emulated):
    for m, n, k in ((0, 3, 2), (3, 0, 2), (5, 4, 0)):
        a, b, out = np.zeros((m, k), np.float32), np.zeros((k, n), np.float32), np.full((m, n), np.nan, np.float32)
        assert checked(emulated, a, b, out) is None
        assert not out.any()


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_matmul_into_16_bits_is_the_float_sum_rounded_once(emulated, dtype, accumulate):
    a, b = random((66, 40), dtype), random((40, 130), dtype, 8)
    out, wide = random((66, 130), dtype, 9), np.zeros((66, 130), np.float32)
    before = out.astype(np.float32) if accumulate else np.float32(0)
    emulated("matmul", a, b, wide, False)
    emulated("matmul", a, b, out, accumulate)
    assert out.tobytes() == (wide + before).astype(DTYPES[dtype]).tobytes()


@pytest.mark.parametrize("dtype", PRODUCTS)
def test_matmul_accumulates_every_element_exactly_once(emulated, dtype):
    out = random((66, 130), "float32", 9).astype(PRODUCTS[dtype])
    check_product(emulated, random((66, 40), dtype), random((40, 130), dtype, 8), out, dtype, accumulate=True)


@pytest.mark.parametrize("dtype", PRODUCTS)
def test_matmul_takes_transposes_negative_strides_and_broadcast_batches(emulated, dtype):
    a = random((2, 1, 19, 35), dtype).swapaxes(-1, -2)[..., ::-1]  # (2, 1, 35, 19)
    b = random((3, 38, 20), dtype, 8)[:, ::-2]  # (3, 19, 20)
    whole = np.full((2, 3, 20, 70), 77, PRODUCTS[dtype])
    out = whole.swapaxes(-1, -2)[..., ::2, :]
    check_product(emulated, a, b, out, dtype)
    assert (whole.swapaxes(-1, -2)[..., 1::2, :] == 77).all(), "elements between the strides of out were written"


def test_matmul_refuses_what_the_binding_refuses(emulated):
    with pytest.raises(ValueError, match="needs"):
        emulated("matmul", random((2, 3), "float32"), random((3, 4), "float32"), np.zeros((2, 5), np.float32), False)


@pytest.mark.parametrize("along_k", [False, True])
@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_matmul_of_8_bit_floats_of_any_strides_is_scaled(emulated, dtype, along_k):
    generator, (m, n, k) = np.random.default_rng(5), (67, 131, 140)
    a = generator.standard_normal((k, m)).astype(dtype).T[:, ::-1]
    b = generator.standard_normal((k, 2 * n)).astype(dtype)[:, ::2]
    shapes = ((m, 2), (2, 2)) if along_k else ((m, 1), (1, n))
    scale_a, scale_b = (generator.uniform(0.25, 4, shape).astype(np.float32) for shape in shapes)
    whole_a, whole_b = scale_a, scale_b
    if along_k:
        whole_a, whole_b = np.repeat(scale_a, 128, 1)[:, :k], np.repeat(np.repeat(scale_b, 128, 0), 128, 1)[:k, :n]
    left, right = a.astype(np.float64) * whole_a * 0.5, b.astype(np.float64) * whole_b
    exact, sizes = left @ right, np.abs(left) @ np.abs(right)
    for kind in ("float32", "float16", "bfloat16"):
        out = np.full((m, n), 77, DTYPES[kind])
        emulated("scaled_matmul", a, b, out, scale_a, scale_b)
        bound = (k + 6) * 2.0**-24 * sizes + (kind != "float32") * UNITS[kind] * 1.01 * np.abs(exact)
        assert (np.abs(out.astype(np.float64) - exact) <= bound).all()


def test_every_8_bit_number_is_what_its_specification_says(emulated):
    for dtype in FLOAT8:
        numbers = np.arange(256, dtype=np.uint8).view(dtype)
        out, one = np.zeros((256, 1), np.float32), np.ones((1, 1), np.float32)
        emulated("scaled_matmul", numbers.reshape(256, 1), one.astype(dtype), out, one, 2 * one)  # and the factor 0.5
        np.testing.assert_array_equal(out[:, 0], numbers.astype(np.float32))


# ---- attention ----


def attention_reference(q, k, v, causal, window):
    """Outputs, log-sum-exps and Σ P|v| in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    distance = np.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2] - np.arange(k.shape[2])
    seen = np.ones(distance.shape, bool)
    if causal:
        seen &= distance >= 0
    if window >= 0:
        seen &= distance <= window
    scores = np.where(seen, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    largest = np.max(scores, axis=-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (largest + np.log(total))[..., 0]
    weights /= np.where(total == 0, 1, total)
    return weights @ v, lse, weights @ np.abs(v)


def check_attention(emulated, q, k, v, dtype, causal=False, window=-1):
    out, lse = np.full(q.shape, 77, DTYPES[dtype]), np.full(q.shape[:3], 77, np.float32)
    exact, exact_lse, sizes = attention_reference(q, k, v, causal, window)
    emulated("attention", q, k, v, out, lse, causal, window)
    # Weights and result are rounded to the input type; scores and sums are float32.
    bound = 2 * UNITS[dtype] * sizes + 2e-6 * (1 + sizes)
    assert (np.abs(out.astype(np.float64) - exact) <= bound).all()
    np.testing.assert_allclose(lse, exact_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("head_dim", [16, 40, 64, 128, 256])
def test_attention_is_the_softmax_average_for_every_padded_head_dimension(emulated, dtype, head_dim):
    q = random((1, 2, 17, head_dim), dtype)
    k, v = (random((1, 1, 66, head_dim), dtype, seed) for seed in (8, 9))
    check_attention(emulated, q, k, v, dtype)


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("masks", [(True, -1), (True, 20), (False, 20), (True, 0)])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 70), (70, 1), (65, 130), (130, 65)])
def test_attention_sees_the_keys_that_the_masks_leave(emulated, dtype, masks, lengths):
    q = random((2, 2, lengths[0], 16), dtype)
    k, v = (random((2, 1, lengths[1], 16), dtype, seed) for seed in (8, 9))
    check_attention(emulated, q, k, v, dtype, *masks)


@pytest.mark.parametrize("dtype", UNITS)
def test_attention_without_queries_or_keys(emulated, dtype):
    check_attention(emulated, *(np.zeros((1, 2, n, 16), DTYPES[dtype]) for n in (0, 5, 5)), dtype)
    check_attention(emulated, *(np.zeros((1, 2, n, 16), DTYPES[dtype]) for n in (5, 0, 0)), dtype)


@pytest.mark.parametrize("dtype", UNITS)
def test_attention_takes_any_strides(emulated, dtype):
    q = random((1, 20, 3, 32), dtype).swapaxes(1, 2)[..., ::-1]
    k, v = (random((2, 30, 1, 64), dtype, seed).swapaxes(1, 2)[1:, :, ::-1, ::2] for seed in (8, 9))
    check_attention(emulated, q, k, v, dtype, causal=True)


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_hidden_values_do_not_reach_the_result_and_visible_ones_do(emulated, dtype, poison):
    q, k, v = (random((1, 1, 70, 32), dtype, seed) for seed in (7, 8, 9))
    v[0, 0, 40, 5] = k[0, 0, 66, 2] = poison
    out = np.full(q.shape, 77, DTYPES[dtype])
    emulated("attention", q, k, v, out, None, True, -1)
    wrong = ~np.isfinite(out[0, 0].astype(np.float64))
    assert wrong[40:66, 5].all()
    assert not wrong[:40].any()
    assert not wrong[40:66, :5].any()
    assert not wrong[40:66, 6:].any()


# ---- local reduction, memory ----

REDUCTIONS = [np.add, np.multiply, np.minimum, np.maximum]  # in the order of Operation, reduce.h


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", range(4))
def test_reduce_is_elementwise_with_wrapping_integers_and_contagious_nan(emulated, dtype, operation):
    a, b = random(1027, dtype), random(1027, dtype, 8)
    if dtype.startswith(("float", "bfloat")):
        a[3], b[5], b[1026] = np.nan, np.nan, np.inf
    out = a.copy()
    emulated("reduce", a, b, out, operation)
    with np.errstate(all="ignore"):
        expected = REDUCTIONS[operation](a, b)
    if dtype == "bfloat16":  # whose NaN the comparison below does not know
        out, expected = out.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("count", [0, 1, 1023, 1025, 5000])
def test_memory_operations_touch_every_element_once(emulated, count):
    a, b = np.arange(count, dtype=float), np.full(count, 2.0)
    for operation, expected in {1: a, 2: a + 3 * b, 3: np.full(count, 3.0)}.items():
        c = np.full(count, np.nan)
        emulated("memory", operation, a, b, c)
        np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize(("count", "parts"), [(0, 2), (1, 3), (1023, 1), (5000, 7), (5000, 4999)])
def test_memory_read_sums_equal_parts(emulated, count, parts):
    a, sums = np.arange(count, dtype=float), np.full(parts, np.nan)
    emulated("memory", 0, a, a, sums)
    size = -(-count // parts)
    np.testing.assert_array_equal(sums, [a[i * size : (i + 1) * size].sum() for i in range(parts)])


# ---- peak ----

NUMBERS = ["float64", "float32", "tf32", "bfloat16", "float16", "float8_e4m3fn", "int8"]  # Number, cuda_peak.h
BLOCK_OPERATIONS = 3 << 22


@pytest.mark.parametrize(
    ("dtype", "blocks"),
    [("float64", 1), ("float32", 3), ("tf32", 1), ("bfloat16", 1), ("float16", 3), ("int8", 1), ("int8", 0)],
)
def test_peak_counts_every_operation_of_all_blocks(emulated, dtype, blocks):
    counted = np.full(1, -77)
    emulated("peak", NUMBERS.index(dtype), ctypes.c_int64(blocks), counted)
    assert counted[0] == blocks * BLOCK_OPERATIONS


# ---- the emulation itself ----


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_emulated_rounding_to_16_bits_is_to_nearest_even(emulated, dtype):
    every = np.arange(65536, dtype=np.uint16).view(DTYPES[dtype]).astype(np.float32)
    every = every[np.isfinite(every)]
    middles = every[:-1] / 2 + every[1:] / 2  # ties, where neighbours are neighbours
    values = np.concatenate(
        [every, middles, random(20000, "float32"), np.float32([65519, 65520, 1e30, np.inf, -np.inf])]
    )
    stored, back = np.empty(len(values), np.uint16), np.empty_like(values)
    pointers = (ctypes.c_void_p(x.ctypes.data) for x in (stored, back))
    emulated.library.round_to_16_bits(
        ctypes.c_void_p(values.ctypes.data), ctypes.c_int64(len(values)), dtype == "bfloat16", *pointers
    )
    with np.errstate(over="ignore"):
        expected = values.astype(DTYPES[dtype])
    np.testing.assert_array_equal(stored, expected.view(np.uint16))
    np.testing.assert_array_equal(back, expected.astype(np.float32))
