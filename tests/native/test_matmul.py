"""The CPU matmul: every variant that runs here, every dtype, against float64 within the proven bound."""

from __future__ import annotations

import ctypes
import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from pyhpc import native
from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.measure.cache import cache_bytes

matmul = native.cpu().matmul
VARIANTS = [name for name, refusal in matmul.variants() if not refusal]
OUTPUT = {"float64": "float64", "float32": "float32", "bfloat16": "float32", "float16": "float32", "int8": "int32"}
DTYPES = list(OUTPUT)
bfloat16 = np.dtype(ml_dtypes.bfloat16)


def dtype_of(name):
    return bfloat16 if name == "bfloat16" else np.dtype(name)


def random(shape, dtype, seed=0):
    generator = np.random.default_rng([seed, *shape])
    if dtype == "int8":
        return generator.integers(-128, 128, shape).astype(np.int8)
    return generator.standard_normal(shape).astype(dtype_of(dtype))


def poisoned(shape, dtype):
    out = np.empty(shape, OUTPUT[dtype])
    out.fill(np.nan if out.dtype.kind == "f" else np.iinfo(out.dtype).min)
    return out


def assert_is_product(out, a, b, start=None):
    """`out` is (start +) a b: exactly for integers, else within gamma_k = k u / (1 - k u) times |a| |b|."""
    if out.dtype.kind == "i":
        expected = np.matmul(a.astype(np.int64), b.astype(np.int64)) + (0 if start is None else start.astype(np.int64))
        np.testing.assert_array_equal(out, expected.astype(np.int32))
        return
    # Beyond small sizes the reference of float64 is float64 too, since longdouble is slow: both may err by the bound.
    small = out.size * a.shape[-1] < 50_000
    wide = np.longdouble if out.dtype == np.float64 and small else np.float64
    a, b = a.astype(wide), b.astype(wide)
    expected, magnitude = np.matmul(a, b), np.matmul(np.abs(a), np.abs(b))
    if start is not None:
        expected, magnitude = expected + start, magnitude + np.abs(start)
    terms = a.shape[-1] + (start is not None)
    unit = np.finfo(out.dtype).eps / 2
    bound = terms * unit / (1 - terms * unit) * magnitude + terms * np.finfo(out.dtype).tiny
    bound *= 2 if wide == out.dtype else 1
    error = np.abs(out - expected)
    assert not np.isnan(out).any()
    assert (error <= bound).all(), f"worst error is {np.max(error / bound):.3g} times the bound"


def product(a, b, dtype, **options):
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    out = poisoned(shape, dtype)
    matmul.run(a, b, out, **options)
    return out


def check(a, b, dtype, **options):
    assert_is_product(product(a, b, dtype, **options), a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_small_shape_is_the_product(variant, dtype):
    for m, n, k in itertools.product((0, 1, 2, 5, 15), (0, 1, 3, 17, 33), (0, 1, 2, 3, 4, 7, 17, 65)):
        check(random((m, k), dtype), random((k, n), dtype), dtype, variant=variant, threads=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "shape",
    [
        *((97, 131, 700), (1, 301, 530), (301, 1, 530), (3, 5, 20011), (259, 33, 5), (8, 48, 64), (2, 20101, 300)),
        # Few rows beside a wide b, and few columns: whole and broken chunks of what is kept in cache; small, in place.
        *((41, 3001, 301), (4, 2117, 67), (2117, 3, 67), (3, 1024, 65), (61, 77, 50)),
    ],
)
def test_shapes_beyond_one_tile_and_one_block_are_the_product(variant, dtype, shape):
    m, n, k = shape
    check(random((m, k), dtype), random((k, n), dtype), dtype, variant=variant, threads=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_operands_and_output_may_have_any_strides(variant, dtype):
    layouts = {
        "rows": lambda x: x.copy(),
        "columns": lambda x: np.asfortranarray(x),
        "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        "every third": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
        "negative columns": lambda x: np.asfortranarray(x[:, ::-1])[:, ::-1],
    }
    for m, n, k in ((19, 37, 41), (1, 70, 35), (70, 1, 35), (3, 70, 35), (70, 4, 66)):
        a, b = random((m, k), dtype), random((k, n), dtype)
        for left, right, result in itertools.product(layouts.values(), repeat=3):
            out = result(poisoned((m, n), dtype))
            matmul.run(left(a), right(b), out, variant=variant, threads=1)
            assert_is_product(out, a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_strides_repeat_a_row_or_column(variant, dtype):
    a = np.broadcast_to(random((1, 23), dtype), (18, 23))
    b = np.broadcast_to(random((23, 1), dtype), (23, 40))
    check(a, b, dtype, variant=variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "shape", [(20, 35, 900), (1, 50, 90), (50, 1, 90), (3, 50, 90), (50, 70, 90), (17, 4001, 200), (5, 6, 0)]
)
def test_accumulate_adds_to_what_out_holds(variant, dtype, shape):
    m, n, k = shape
    a, b = random((m, k), dtype), random((k, n), dtype)
    start = random((m, n), dtype, seed=1).astype(OUTPUT[dtype])
    out = start.copy()
    matmul.run(a, b, out, accumulate=True, variant=variant)
    assert_is_product(out, a, b, start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("batch_a", "batch_b"),
    [((3,), (3,)), ((4, 1), (3,)), ((), (2, 3)), ((2, 3), ()), ((2, 1, 2), (1, 3, 1)), ((0,), (1,)), ((5,), ())],
)
def test_leading_dimensions_broadcast(variant, dtype, batch_a, batch_b):
    for m, n, k in ((5, 18, 9), (1, 7, 6), (7, 1, 6)):
        check(random((*batch_a, m, k), dtype), random((*batch_b, k, n), dtype), dtype, variant=variant, threads=2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("dtype", "shift", "threads"), [("float64", 0, 1), ("float32", 3, 2), ("bfloat16", 1, 1), ("int8", 5, 3)]
)
def test_an_output_beyond_the_caches_is_right_wherever_its_rows_start(variant, dtype, shift, threads):
    item = np.dtype(OUTPUT[dtype]).itemsize
    m, k = 67, 5
    n = -(-(cache_bytes().get("l3") or 4 << 20) // (2 * m * item) // 64) * 64 + 64  # rows of whole cache lines
    a, b = random((m, k), dtype), random((k, n - 7), dtype)
    rows = poisoned((m * n + 64,), dtype)[shift:][: m * n].reshape(m, n)
    out = rows[:, : n - 7]
    matmul.run(a, b, out, threads=threads, variant=variant)
    poison = poisoned((), dtype)
    np.testing.assert_array_equal(rows[:, n - 7 :], poison)
    few = np.r_[0:70, np.arange(97, n - 7, 997), n - 80 : n - 7]
    assert_is_product(out[:, few], a, b[:, few])


@pytest.mark.parametrize(("dtype", "k"), [("float32", 700), ("int8", 2501)])
def test_a_deep_product_whose_output_is_beyond_the_caches_is_right(dtype, k):
    size = math.isqrt((cache_bytes().get("l3") or 4 << 20) // 2 // 4) + 17
    a, b = random((size, k), dtype), random((k, size), dtype)
    out = poisoned((size, size), dtype)
    matmul.run(a, b, out)
    few = np.r_[0:9, np.arange(97, size - 20, 397), size - 20 : size]
    assert_is_product(out[few], a[few], b)
    assert_is_product(out[:, few], a, b[:, few])


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_a_strided_batch_with_one_b_are_the_product(variant):
    whole = random((6, 2, 40, 30), "float32")
    for a in (whole[:, 0], whole[::2, 1], whole[:, :, ::2][:, 0], whole[::-1, 1], whole[:, 0, :1]):
        check(a, random((30, 20), "float32"), "float32", variant=variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bits_do_not_depend_on_the_number_of_threads(variant, dtype):
    for shape_a, shape_b in (
        ((150, 301), (301, 170)),
        ((1, 4096), (4096, 513)),
        ((3, 90, 200), (3, 200, 100)),
        ((40, 2000), (2000, 40)),
        ((40, 300), (300, 5000)),
        ((4, 300), (300, 3000)),
        ((3000, 300), (300, 3)),
        ((9, 60, 70), (9, 70, 80)),
    ):
        a, b = random(shape_a, dtype), random(shape_b, dtype)
        results = [product(a, b, dtype, variant=variant, threads=threads) for threads in (1, 2, 3, 4, 7, 1)]
        assert_is_product(results[0], a, b)
        assert len({result.tobytes() for result in results}) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_team_computes_what_one_thread_does_over_several_blocks(variant):
    a, b = random((420, 1100), "float64"), random((1100, 470), "float64")
    team, alone = (product(a, b, "float64", variant=variant, threads=threads) for threads in (4, 1))
    assert_is_product(team, a, b)
    assert team.tobytes() == alone.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_team_adds_up_a_long_inner_product_in_the_order_of_one_thread(variant, dtype, accumulate):
    a, b = random((21, 7001), dtype), random((7001, 35), dtype)
    start = random((21, 35), dtype, seed=1).astype(OUTPUT[dtype])
    results = []
    for threads in (1, 2, 3, 6):
        out = np.asfortranarray(start[::-1] if accumulate else poisoned(start.shape, dtype))[::-1]
        matmul.run(a, b, out, accumulate=accumulate, variant=variant, threads=threads)
        assert_is_product(out, a, b, start if accumulate else None)
        results.append(out.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("dtype", DTYPES[:-1])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_inf_and_nan_reach_exactly_the_elements_that_ieee_says(variant, dtype, special):
    for m, n, k in ((19, 45, 37), (1, 45, 37), (45, 1, 37), (3, 3, 3)):
        a, b = np.abs(random((m, k), dtype)) + 1, np.abs(random((k, n), dtype)) + 1
        a, b = a.astype(dtype_of(dtype)), b.astype(dtype_of(dtype))
        a[-1, -1] = special
        b[k // 2, -1] = special
        with np.errstate(invalid="ignore"):
            expected = np.matmul(a.astype(np.float64), b.astype(np.float64))
        for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
            out = poisoned((m, n), dtype)
            matmul.run(left, right, out, variant=variant)
            np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
            np.testing.assert_array_equal(out[np.isinf(out)], expected[np.isinf(expected)])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_value_is_widened_exactly(variant, dtype):
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype_of(dtype))
    expected = values.astype(np.float32)
    one = np.ones((1, 1), dtype_of(dtype))
    for column in (values[:, None], np.repeat(values, 2)[::2, None]):
        out = poisoned((1 << 16, 1), dtype)
        matmul.run(column, one, out, variant=variant)
        np.testing.assert_array_equal(out[:, 0], expected)
    # Through the packed path: each value times the identity.
    block, identity = values.reshape(-1, 16), np.eye(16).astype(dtype_of(dtype))
    out, finite = poisoned(block.shape, dtype), np.isfinite(expected.reshape(-1, 16)).all(axis=1)
    matmul.run(block, identity, out, variant=variant)
    np.testing.assert_array_equal(out[finite], expected.reshape(-1, 16)[finite])


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_sums_are_exact_at_the_extremes(variant):
    for x, y in itertools.product((-128, 127), repeat=2):
        a, b = np.full((15, 3001), x, np.int8), np.full((3001, 33), y, np.int8)
        check(a, b, "int8", variant=variant)
        check(a[:1], b, "int8", variant=variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_denormals_are_kept(variant):
    a = np.full((3, 4), np.float32(1e-40))
    out = poisoned((3, 20), "float32")
    matmul.run(a, np.ones((4, 20), np.float32), out, variant=variant)
    np.testing.assert_array_equal(out, np.full((3, 20), np.float32(1e-40) * np.float32(4)))


def test_memory_outside_out_is_not_written():
    frame = np.full((40, 60), np.float32(7))
    a, b = random((21, 33), "float32"), random((33, 35), "float32")
    for variant in VARIANTS:
        frame.fill(7)
        matmul.run(a, b, frame[3:24, 5:40], variant=variant, threads=2)
        assert_is_product(frame[3:24, 5:40], a, b)
        frame[3:24, 5:40] = 7
        assert (frame == 7).all()


def test_variants_are_listed_best_first_with_generic_last():
    names = [name for name, _ in matmul.variants()]
    assert names[-1] == "generic"
    assert VARIANTS[-1] == "generic"
    assert len(names) == len(set(names))


def test_the_variant_comes_from_the_environment_unless_given(monkeypatch):
    a = np.ones((2, 2), np.float32)
    monkeypatch.setenv("PYHPC_VARIANT", "sse9")
    with pytest.raises(InvalidArgument, match=r"no variant 'sse9'; this build has: .*generic"):
        matmul.run(a, a.copy(), a.copy())
    check(a, a.copy(), "float32", variant="generic")


def test_a_variant_that_cannot_run_here_says_why():
    refused = [(name, refusal) for name, refusal in matmul.variants() if refusal]
    if not refused:
        pytest.skip("every variant of this build runs on this processor")
    a = np.ones((2, 2), np.float32)
    for name, refusal in refused:
        with pytest.raises(Unsupported, match=f"variant '{name}' cannot run here: {refusal}"):
            matmul.run(a, a.copy(), a.copy(), variant=name)


def test_any_exporter_of_the_buffer_protocol_is_an_array():
    a = (ctypes.c_float * 3 * 2)((1, 2, 3), (4, 5, 6))
    out = (ctypes.c_float * 2 * 2)()
    matmul.run(a, np.eye(3, 2, dtype=np.float32), out)
    assert [list(row) for row in out] == [[1, 2], [4, 5]]


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def read_only():
    array = zeros(2, 4)
    array.flags.writeable = False
    return array


REFUSED = {
    "a of one dimension": (
        zeros(3),
        zeros(3, 4),
        zeros(2, 4),
        r"a has shape \(3,\); it must have at least two dimensions, \(..., m, k\)",
    ),
    "out of one dimension": (zeros(2, 3), zeros(3, 4), zeros(4), r"out has shape \(4,\)"),
    "nine dimensions": (zeros(*[1] * 9), zeros(1, 1), zeros(1, 1), r"a has 9 dimensions; at most 8"),
    "different k": (zeros(2, 3), zeros(4, 5), zeros(2, 5), r"a \(2, 3\) has k = 3 columns, but b \(4, 5\) has 4 rows"),
    "batches": (
        zeros(2, 2, 3),
        zeros(3, 3, 4),
        zeros(3, 2, 4),
        r"batch dimensions of a \(2, 2, 3\) and b \(3, 3, 4\) do not broadcast",
    ),
    "mixed dtypes": (zeros(2, 3), zeros(3, 4, dtype=np.float64), zeros(2, 4), "a is float32 and b is float64"),
    "int32 operands": (
        zeros(2, 3, dtype=np.int32),
        zeros(3, 4, dtype=np.int32),
        zeros(2, 4),
        "a and b are int32; matmul takes float64",
    ),
    "complex": (
        zeros(2, 3, dtype=np.complex64),
        zeros(3, 4),
        zeros(2, 4),
        "a has element kind 'c64', which no kernel takes",
    ),
    "shape of out": (
        zeros(2, 3),
        zeros(3, 4),
        zeros(4, 2),
        r"out has shape \(4, 2\); a \(2, 3\) times b \(3, 4\) needs \(2, 4\)",
    ),
    "batch of out": (zeros(5, 2, 3), zeros(3, 4), zeros(2, 4), r"out has shape \(2, 4\); .* needs \(5, 2, 4\)"),
    "dtype of out": (
        zeros(2, 3),
        zeros(3, 4),
        zeros(2, 4, dtype=np.float64),
        "out is float64; the product of float32 arrays is float32",
    ),
    "read-only out": (zeros(2, 3), zeros(3, 4), read_only(), "out is read-only"),
    "a stride of 0 in out": (
        zeros(2, 3),
        zeros(3, 4),
        np.lib.stride_tricks.as_strided(zeros(4), (2, 4), (0, 4)),
        "out has elements that share memory",
    ),
    "big-endian": (zeros(2, 3, dtype=">f4"), zeros(3, 4), zeros(2, 4), "a is big-endian"),
    "not aligned": (
        np.frombuffer(bytes(25), np.uint8)[1:].view(np.float32).reshape(2, 3),
        zeros(3, 4),
        zeros(2, 4),
        "a is not aligned",
    ),
    "not an array": ([[1.0]], zeros(1, 4), zeros(1, 4), "a is a list, not an array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_impossible_argument_is_refused_in_one_sentence(case):
    a, b, out, sentence = REFUSED[case]
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        matmul.run(a, b, out)
    assert "\n" not in str(caught.value)


def test_negative_threads_are_refused():
    with pytest.raises(InvalidArgument, match="threads is -1; give a positive number"):
        matmul.run(zeros(2, 3), zeros(3, 4), zeros(2, 4), threads=-1)


def test_out_that_shares_memory_with_an_operand_is_refused_and_only_then():
    whole = random((40, 40), "float32")
    shared = [
        (whole[:20, :20], whole[20:, :20], whole[:20, :20]),
        (whole[:20, :20], whole[20:, :20], whole[19:39, 20:][::-1]),
        (whole[:20, :20], whole[20:, :20], whole[10:30, 19:39].T),
        (whole[::2, ::2], whole[::2, 1::2], whole[::2, 1::2]),
    ]
    for a, b, out in shared[:1] + shared[2:]:
        with pytest.raises(InvalidArgument, match=r"out shares memory with [ab]"):
            matmul.run(a, b, out)
    apart = [
        shared[1],
        (whole[:20, :20], whole[20:, :20], whole[:20, 20:]),
        (whole[::2, ::2], whole[::2, ::2], whole[::2, 1::2]),
    ]
    for a, b, out in apart:
        left, right = a.copy(), b.copy()
        matmul.run(a, b, out)
        assert_is_product(out, left, right)
