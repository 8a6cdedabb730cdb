"""The native attention kernels against a float64 reference, within the bound that csrc/attention/attention.h states."""

from __future__ import annotations

import math
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels.attention_backward_problem import AttentionBackwardProblem
from pyhpc.native import cpu

attention = cpu().attention
VARIANTS = [name for name, refusal in attention.variants() if not refusal]
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
# Unit roundoff and smallest subnormal of each output type.
ROUNDING = {"float32": (2.0**-24, 2.0**-149), "bfloat16": (2.0**-8, 2.0**-133), "float16": (2.0**-11, 2.0**-24)}
ROUNDOFF, EXP2_ERROR, KEY_BLOCK = 2.0**-24, 2.0**-22, 96


@dataclass(frozen=True)
class Case:
    """One shape; `window` −1 is none."""

    q_len: int
    kv_len: int
    head_dim: int
    heads: int = 1
    kv_heads: int = 1
    causal: bool = False
    window: int = -1
    batch: int = 1


CASES = [
    Case(0, 5, 16),
    Case(3, 0, 16),
    Case(1, 1, 16),
    Case(1, 1, 17, causal=True),
    Case(1, 300, 64, heads=4, kv_heads=2, batch=2),  # decode
    Case(1, 129, 128, heads=16, kv_heads=1, window=20),
    Case(2, 131, 40, heads=3, kv_heads=3, causal=True),
    Case(5, 257, 33, heads=8, kv_heads=2, causal=True, window=70),
    Case(1, 300, 48, heads=9, kv_heads=1),  # packs of 8 and 1 rows
    Case(3, 2000, 64, heads=5, kv_heads=1, causal=True),  # packs of 8, 4 and 3; two spans
    Case(17, 200, 32),  # one row more than few
    Case(17, 17, 256, causal=True),
    Case(65, 97, 65, heads=2, kv_heads=2, causal=True),  # one row over a tile, one key and one column over a block
    Case(49, 193, 129, heads=2, kv_heads=1, causal=True),
    Case(97, 250, 31, heads=2, kv_heads=2, batch=2, window=9),
    Case(130, 128, 80, causal=True),  # the first queries see no key
    Case(200, 60, 24, heads=2, kv_heads=2, causal=True, window=30),
    Case(259, 259, 16, heads=3, kv_heads=1, causal=True, window=0),
    Case(600, 150, 16, heads=2, kv_heads=1),  # more rows than a chunk holds
]


def visible(q_len, kv_len, causal, window):
    place = np.arange(q_len)[:, None] + kv_len - q_len
    key = np.arange(kv_len)[None, :]
    return ((key <= place) | (not causal)) & ((place - key <= window) | (window < 0))


def reference(q, k, v, causal=False, window=-1, scale=0.0, pairs=False):
    """Output and log-sum-exp in float64, and the stated bounds of their errors; `pairs`: of bfloat16, multiplied so."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group, head_dim, kv_len = q.shape[1] // k.shape[1], q.shape[3], k.shape[2]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scale = scale or 1 / math.sqrt(head_dim)
    seen = visible(q.shape[2], kv_len, causal, window)
    s = np.where(seen, scale * (q @ k.swapaxes(2, 3)), -np.inf)
    top = s.max(-1, keepdims=True, initial=-np.inf)
    base = np.where(top == -np.inf, 0, top)
    weights = np.exp(s - base)
    total = weights.sum(-1, keepdims=True)
    p = weights / np.where(total == 0, 1, total)
    blocks = kv_len // KEY_BLOCK + 2
    r = (head_dim + 3) * ROUNDOFF * abs(scale) * (abs(q) @ abs(k).swapaxes(2, 3)) + ROUNDOFF * np.where(
        seen, base - s, 0
    )
    r += (blocks + 1) * (EXP2_ERROR + ROUNDOFF) + (KEY_BLOCK + 2 * blocks) * ROUNDOFF
    if pairs:
        r += head_dim * abs(scale) * 2.0**-126 * (abs(q).max() + abs(k).max() + 2)
    out = p @ v
    relative = (p * r).sum(-1, keepdims=True)
    out_bound = (p * r) @ abs(v) + (relative + 3 * ROUNDOFF) * abs(out) + 2.0**-126 * (1 + abs(v).sum(2, keepdims=True))
    if pairs:
        out_bound += 2.0**-8 * (p @ abs(v)) + 3 * kv_len * 2.0**-126
    with np.errstate(divide="ignore"):
        lse = (base + np.log(total))[..., 0]
    lse_bound = relative[..., 0] + 2 * ROUNDOFF * abs(np.where(np.isfinite(lse), lse, 0)) + 2.0**-126
    return out, lse, 1.01 * out_bound, 1.01 * lse_bound  # 1.01: the terms of second order


def draw(case, dtype, seed=0):
    random = np.random.default_rng(seed)
    shapes = [(case.heads, case.q_len), (case.kv_heads, case.kv_len), (case.kv_heads, case.kv_len)]
    return [random.standard_normal((case.batch, *shape, case.head_dim)).astype(DTYPES[dtype]) for shape in shapes]


def poisoned(shape, dtype):
    return np.full(shape, np.nan, dtype)


def run(q, k, v, with_lse=True, **options):
    out, lse = poisoned(q.shape, q.dtype), poisoned(q.shape[:3], np.float32)
    attention.run(q, k, v, out, lse if with_lse else None, **options)
    return out, lse


def require_close(q, k, v, out, lse, **options):
    exact, exact_lse, bound, lse_bound = reference(q, k, v, **options)
    roundoff, smallest = ROUNDING[str(out.dtype)]
    bound = bound + (roundoff if out.dtype != np.float32 else 0) * (abs(exact) + bound) + smallest
    assert np.all(abs(out.astype(np.float64) - exact) <= bound)
    hidden = np.isneginf(exact_lse)
    assert np.array_equal(np.isneginf(lse), hidden)
    assert np.all(abs(np.where(hidden, 0, lse) - np.where(hidden, 0, exact_lse)) <= lse_bound)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_stays_within_the_stated_bound(case, dtype, variant):
    q, k, v = draw(case, dtype)
    out, lse = run(q, k, v, causal=case.causal, window=case.window, variant=variant)
    pairs = dtype == "bfloat16" and variant == "avx512_bf16"
    require_close(q, k, v, out, lse, pairs=pairs, causal=case.causal, window=case.window)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("factor", [1e-20, 30.0])
def test_extreme_scores_stay_within_the_bound(factor, variant):
    q, k, v = draw(Case(33, 260, 48), "float32", seed=1)
    out, lse = run(q * np.float32(factor), k, v, scale=0.5, variant=variant)
    require_close(q * np.float32(factor), k, v, out, lse, scale=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q_len", [1, 3, 70])
def test_any_strides_give_the_bits_of_contiguous_arrays(q_len, dtype):
    q, k, v = draw(Case(q_len, 140, 37, heads=4, kv_heads=2, batch=2), dtype)
    plain, plain_lse = run(q, k, v, causal=True)

    def strided(x, order):
        """The same values in memory with axes in another order, every second element, one axis backwards."""
        memory = np.zeros([2 * n for n in np.array(x.shape)[order]], x.dtype)
        view = memory[tuple(slice(None, None, 2) for _ in order)].transpose(np.argsort(order))[:, :, ::-1]
        view[...] = x
        return view

    q, k, v = strided(q, [0, 2, 1, 3]), strided(k, [3, 2, 0, 1]), strided(v, [1, 0, 3, 2])
    out = strided(np.full(q.shape, np.nan, q.dtype), [2, 3, 0, 1])
    lse = poisoned((2, q_len, 4), np.float32).transpose(0, 2, 1)
    attention.run(q, k, v, out, lse, causal=True)
    assert np.array_equal(out, plain)
    assert np.array_equal(lse, plain_lse)


def test_keys_repeated_by_stride_zero_are_read_in_place():
    q, k, v = draw(Case(20, 30, 16, heads=2), "float32")
    wide = [np.broadcast_to(x, (1, 2, 30, 16)) for x in (k, v)]
    assert np.array_equal(run(q, *wide)[0], run(q, k, v)[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "case",
    [
        Case(700, 700, 32, heads=2, kv_heads=2, causal=True),
        Case(1, 9000, 16, heads=2, kv_heads=1),
        Case(40, 300, 17, window=50),
    ],
    ids=str,
)
def test_thread_counts_give_the_same_bits(case, variant):
    q, k, v = draw(case, "float32")
    options = {"causal": case.causal, "window": case.window, "variant": variant}
    out, lse = run(q, k, v, threads=1, **options)
    for threads in (2, 3):
        again, again_lse = run(q, k, v, threads=threads, **options)
        assert np.array_equal(again, out)
        assert np.array_equal(again_lse, lse)


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_sum_exp_is_optional_and_changes_no_bit(variant):
    q, k, v = draw(Case(50, 70, 20), "bfloat16")
    assert np.array_equal(run(q, k, v, variant=variant)[0], run(q, k, v, with_lse=False, variant=variant)[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q_len", [2, 11, 60])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_hidden_keys_and_values_contribute_nothing(bad, q_len, dtype, variant):
    q, k, v = draw(Case(q_len, 60, 16), dtype)
    clean, _ = run(q, k, v, causal=True, variant=variant)
    k[:, :, -1], v[:, :, -1] = bad, bad
    out, _ = run(q, k, v, causal=True, variant=variant)
    assert np.array_equal(out[:, :, :-1], clean[:, :, :-1])
    assert np.all(np.isnan(out[:, :, -1]) | np.isinf(out[:, :, -1]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("q_len", [2, 11, 60])
def test_nan_reaches_exactly_the_results_that_depend_on_it(q_len, variant):
    q, k, v = draw(Case(q_len, 150, 16), "float32")
    clean, _ = run(q, k, v, variant=variant)
    q[0, 0, 1, 3] = np.nan
    out, lse = run(q, k, v, variant=variant)
    assert np.all(np.isnan(out[0, 0, 1]))
    assert np.isnan(lse[0, 0, 1])
    others = np.arange(q_len) != 1
    assert np.array_equal(out[:, :, others], clean[:, :, others])
    v[0, 0, 140, 5] = np.nan
    out, _ = run(q, k, v, variant=variant)
    assert np.all(np.isnan(out[..., 5]))
    assert not np.any(np.isnan(out[:, :, others][..., :5]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_float16_conversion_is_exact_for_every_finite_value(variant):
    """One visible key: the output is the value itself."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    values = np.concatenate([halves, -halves]).reshape(1, 1, -1, 16)
    q = np.zeros_like(values)
    assert np.array_equal(run(q, q, values, causal=True, window=0, variant=variant)[0], values)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_output_is_rounded_to_nearest_even(dtype, variant):
    """Two equal weights average two neighbours exactly in float32: the tie goes to the even one."""
    numbers = np.arange(0x0010, 0x7BFE, dtype=np.uint16).view(DTYPES[dtype])
    numbers = numbers[np.isfinite(numbers.astype(np.float32)) & (numbers.astype(np.float32) > 1e-30)]
    numbers = numbers[: len(numbers) // 16 * 16].reshape(-1, 1, 1, 16)
    following = (numbers.view(np.uint16) + 1).astype(np.uint16).view(DTYPES[dtype])
    v = np.concatenate([numbers, following], 2)
    q = np.zeros_like(numbers)
    expected = (v.astype(np.float32).sum(2, keepdims=True) * np.float32(0.5)).astype(DTYPES[dtype])
    assert np.array_equal(run(q, np.zeros_like(v), v, variant=variant)[0], expected)


def arrays(q=(1, 2, 3, 16), k=(1, 2, 5, 16), v=(1, 2, 5, 16), out=(1, 2, 3, 16), dtype=np.float32):
    return {name: np.zeros(shape, dtype) for name, shape in {"q": q, "k": k, "v": v, "out": out}.items()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"q": np.zeros((2, 3, 16), np.float32)}, r"q has shape \(2, 3, 16\); it must be \(batch, heads"),
        ({"k": np.zeros((2, 2, 5, 16), np.float32)}, r"k has shape \(2, 2, 5, 16\); it must be"),
        ({"v": np.zeros((1, 2, 6, 16), np.float32)}, "it must be k's shape"),
        ({"out": np.zeros((1, 2, 4, 16), np.float32)}, "it must be q's shape"),
        ({"k": np.zeros((1, 2, 5, 16), np.float16)}, "q is float32, k float16, v float32, out float32"),
        ({"q": np.zeros((1, 3, 3, 16), np.float32), "out": np.zeros((1, 3, 3, 16), np.float32)}, "must be a multiple"),
        ({"lse": np.zeros((1, 2, 3))}, "lse is float64; it must be float32"),
        ({"lse": np.zeros((1, 2, 4), np.float32)}, r"lse has shape \(1, 2, 4\)"),
        ({"out": np.broadcast_to(np.float32(0), (1, 2, 3, 16))}, "out is read-only"),
        ({"window": -2}, "window is -2"),
        ({"scale": math.nan}, "scale is not finite"),
        ({"threads": -1}, "threads is -1"),
        ({"variant": "mmx"}, "there is no variant 'mmx'"),
        ({"q": [1.0]}, "q is a list, not an array"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        attention.run(**{**arrays(), **changes})


@pytest.mark.parametrize("head_dim", [0, 15, 257])
def test_a_head_dimension_outside_16_to_256_is_unsupported(head_dim):
    shape = (1, 1, 2, head_dim)
    with pytest.raises(Unsupported, match=f"head_dim is {head_dim}; attention takes 16 to 256"):
        attention.run(**arrays(shape, shape, shape, shape))


def test_float64_is_refused():
    with pytest.raises(InvalidArgument, match="q is float64; attention takes float32, bfloat16 and float16"):
        attention.run(**arrays(dtype=np.float64))


@pytest.mark.parametrize("other", ["q", "k", "v"])
def test_overlap_of_out_with_an_input_is_refused(other):
    memory = np.zeros(500, np.float32)
    given = arrays()
    given["out"] = memory[:96].reshape(1, 2, 3, 16)
    given[other] = memory[95 : 95 + given[other].size].reshape(given[other].shape)
    with pytest.raises(InvalidArgument, match=f"out and {other} span the same memory"):
        attention.run(**given)


def test_an_output_whose_elements_share_memory_is_refused():
    given = arrays()
    given["out"] = np.lib.stride_tricks.as_strided(given["out"], strides=(384, 0, 64, 4), writeable=True)
    with pytest.raises(InvalidArgument, match="out has stride 0 along dimension 1"):
        attention.run(**given)


HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
X86_FEATURES = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"]


def compiled(compiler, variant, sources, folder):
    """attention_driver.cpp for this variant; `sources`: its files and their flags."""
    flags = ["-std=c++17", "-fno-math-errno", "-ffp-contract=fast", "-fopenmp", f"-I{CSRC}"]
    sources = {**sources, "core/workspace.cpp": ["-O1"]}
    main = {HERE / "attention_driver.cpp": ["-O1", f"-DPYHPC_DRIVER_VARIANT={variant}"]}
    for source, own in (main | {CSRC / name: own for name, own in sources.items()}).items():
        words = [*flags, *own, "-c", source, "-o", folder / f"{source.stem}.o"]
        subprocess.run([compiler, *words], check=True)
    objects = sorted(folder.glob("*.o"))
    subprocess.run([compiler, "-static", "-fopenmp", *objects, "-o", folder / "driver"], check=True)
    return folder / "driver"


def driven(command, case, q, k, v, dout):
    """out, lse and the gradients, by the driver that `command` starts; one batch."""
    sizes = [case.heads, case.kv_heads, case.q_len, case.kv_len, case.head_dim, int(case.causal), case.window]
    done = subprocess.run(
        [*command, str(list(DTYPES.values()).index(q.dtype)), *map(str, sizes)],
        input=b"".join(x.tobytes() for x in (q, k, v, dout)), capture_output=True, check=True,
    )  # fmt: skip
    parts = np.cumsum([q.nbytes, 4 * q[..., 0].size])
    out = np.frombuffer(done.stdout[: parts[0]], q.dtype).reshape(q.shape)
    lse = np.frombuffer(done.stdout[parts[0] : parts[1]], np.float32).reshape(q.shape[:3])
    return out, lse, np.frombuffer(done.stdout[parts[1] :], q.dtype)


@pytest.mark.skipif(platform.machine() == "aarch64", reason="NEON runs natively here: the other tests cover it")
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no cross compiler aarch64-linux-gnu-g++")
@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="no emulator qemu-aarch64-static")
def test_neon_stays_within_the_bound_under_emulation(tmp_path):
    files = {"attention/neon.cpp": ["-O2", "-march=armv8.2-a+fp16"]}
    command = ["qemu-aarch64-static", compiled("aarch64-linux-gnu-g++", "neon", files, tmp_path)]
    for case in (Case(1, 140, 33, 4, 2), Case(50, 133, 40, 4, 2, True), Case(9, 60, 17, 2, 2, False, 20)):
        for dtype in DTYPES:
            q, k, v = draw(case, dtype)
            dout = draw(case, dtype, seed=1)[0]
            out, lse, gradients = driven(command, case, q, k, v, dout)
            require_close(q, k, v, out, lse, causal=case.causal, window=case.window)
            sizes = (case.heads, case.kv_heads, case.q_len, case.kv_len, case.head_dim)
            window = None if case.window < 0 else case.window
            problem = AttentionBackwardProblem(1, *sizes, dtype, case.causal, window)
            operands = {"q": q, "k": k, "v": v, "dout": dout, "out": out, "lse": lse}
            check = problem.verify(gradients, operands)
            assert check.passed, check.first_wrong


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """driven(…) for AVX-512 with BF16, its one instruction replaced by a model; gives out and lse."""
    if refusal := cpu().target_refusal("avx512_vnni"):
        pytest.skip(refusal)
    features = [f"-m{name}" for name in X86_FEATURES]
    model = ["-mavx512vnni", "-mavx512bf16", "-include", str(HERE / "dpbf16_model.h")]
    files = {"attention/avx512_bf16.cpp": ["-O1", *features, *model], "attention/avx512.cpp": ["-O1", *features]}
    command = [compiled("g++", "avx512_bf16", files, tmp_path_factory.mktemp("pairs"))]
    return lambda case, q, k, v: driven(command, case, q, k, v, np.zeros_like(q))[:2]


@pytest.mark.parametrize("case", [case for case in CASES if case.batch == 1 and case.q_len and case.kv_len], ids=str)
def test_pairs_of_bfloat16_stay_within_the_bound(pairs, case):
    q, k, v = draw(case, "bfloat16")
    out, lse = pairs(case, q, k, v)
    require_close(q, k, v, out, lse, pairs=True, causal=case.causal, window=case.window)


def test_pairs_of_bfloat16_take_subnormals_for_zero_and_lose_no_more(pairs):
    case = Case(40, 110, 34)
    q, k, v = (np.array(x) for x in draw(case, "bfloat16"))
    k[..., ::3] = np.array(1e-39, k.dtype)
    v[..., ::2, :] *= np.array(1e-38, k.dtype)
    require_close(q, k, v, *pairs(case, q, k, v), pairs=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_hidden_keys_and_values_contribute_nothing_to_pairs(pairs, bad):
    case = Case(60, 61, 19, heads=2, causal=True)
    q, k, v = (np.array(x) for x in draw(case, "bfloat16"))
    clean, _ = pairs(case, q, k, v)
    k[:, :, -1], v[:, :, -1] = bad, bad
    out, _ = pairs(case, q, k, v)
    assert np.array_equal(out[:, :, :-1], clean[:, :, :-1])
    assert np.all(np.isnan(out[:, :, -1].astype(np.float32)) | np.isinf(out[:, :, -1].astype(np.float32)))


def test_a_nan_reaches_exactly_the_results_of_pairs_that_depend_on_it(pairs):
    case = Case(60, 150, 18)
    q, k, v = (np.array(x) for x in draw(case, "bfloat16"))
    clean, _ = pairs(case, q, k, v)
    q[0, 0, 1, 3] = v[0, 0, 140, 5] = np.nan
    wrong = np.isnan(pairs(case, q, k, v)[0].astype(np.float32))
    out = pairs(case, q, k, v)[0]
    expected = np.zeros_like(wrong)
    expected[0, 0, 1], expected[..., 5] = True, True
    assert np.array_equal(wrong, expected)
    assert np.array_equal(out[~wrong], clean[~wrong])
