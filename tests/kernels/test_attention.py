"""pyhpc.attention as its users meet it, and the proof of its results."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhpc import attention
from pyhpc.errors import InvalidArgument
from pyhpc.kernels import attention_problem
from pyhpc.kernels.attention_problem import ATTENTION_DTYPES, AttentionProblem, visible_keys
from pyhpc.kernels.data import DTYPES


def heads_of(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])


def formula(q, k, v, causal=False, window=None, scale=None):
    """softmax(scale q kᵀ) v and its log-sum-exp as written, one query at a time, in float64."""
    batch, heads, q_len, depth = q.shape
    kv_len = k.shape[2]
    out, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    for b, h, i in np.ndindex(batch, heads, q_len):
        g = h // (heads // k.shape[1])
        place = i + kv_len - q_len
        seen = [j for j in range(kv_len) if (not causal or j <= place) and (window is None or place - j <= window)]
        if seen:
            scores = k[b, g, seen].astype(float) @ q[b, h, i].astype(float) * (scale or depth**-0.5)
            weights = np.exp(scores - scores.max())
            out[b, h, i] = weights @ v[b, g, seen].astype(float) / weights.sum()
            lse[b, h, i] = scores.max() + np.log(weights.sum())
    return out, lse


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(ATTENTION_DTYPES),
    groups=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)),
    lengths=st.tuples(st.integers(0, 20), st.integers(0, 40)),
    depth=st.sampled_from([16, 17, 40]),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(0, 20)),
    swapped=st.booleans(),
)
def test_any_shape_mask_layout_and_dtype_follows_the_formula(dtype, groups, lengths, depth, causal, window, swapped):
    batch, kv_heads, per_group = groups
    q_len, kv_len = lengths

    def draw(heads, length, seed):
        if swapped:  # stored (batch, length, heads, depth), as many models do
            return heads_of((batch, length, heads, depth), dtype, seed).swapaxes(1, 2)
        return heads_of((batch, heads, length, depth), dtype, seed)

    q, k, v = draw(kv_heads * per_group, q_len, 0), draw(kv_heads, kv_len, 1), draw(kv_heads, kv_len, 2)
    out, lse = attention(q, k, v, causal=causal, window=window, return_lse=True)
    assert (out.dtype, out.shape, lse.dtype, lse.shape) == (q.dtype, q.shape, np.float32, q.shape[:3])
    expected, expected_lse = formula(q, k, v, causal, window)
    rounding = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    np.testing.assert_allclose(out.astype(float), expected, rtol=rounding, atol=2 * rounding)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ATTENTION_DTYPES)
def test_torch_tensors_give_torch_tensors(dtype):
    torch = pytest.importorskip("torch")
    q, k = torch.randn(1, 2, 5, 16).to(getattr(torch, dtype)), torch.randn(1, 1, 9, 16).to(getattr(torch, dtype))
    out, lse = attention(q, k, k, return_lse=True)
    assert isinstance(out, torch.Tensor)
    assert isinstance(lse, torch.Tensor)
    assert (out.dtype, lse.dtype) == (q.dtype, torch.float32)
    expected, _ = formula(*(x.float().numpy() for x in (q, k, k)))
    np.testing.assert_allclose(out.float().numpy(), expected, atol=2e-2)
    given_out = torch.empty_like(q)
    assert attention(q, k, k, out=given_out) is given_out
    assert torch.equal(given_out, out)


@pytest.mark.parametrize("variant", [None, "numba"])
def test_scale_threads_and_out_are_taken_as_given(variant):
    q, k = heads_of((1, 2, 6, 16)), heads_of((1, 2, 6, 16), seed=1)
    out = np.full_like(q, np.nan)
    result, lse = attention(q, k, q, scale=0.7, out=out, threads=1, return_lse=True, variant=variant)
    assert result is out
    expected, expected_lse = formula(q, k, q, scale=0.7)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(lse, expected_lse, atol=1e-5)


def test_numba_is_a_variant_of_the_public_function_for_16_bits_too():
    q = heads_of((1, 2, 4, 16), "bfloat16")
    out = attention(q, q, q, causal=True, window=2, variant="numba")
    assert out.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(out.astype(float), formula(q, q, q, True, 2)[0], atol=2e-2)


@pytest.mark.parametrize("variant", [None, "numba"])
def test_one_clear_sentence_for_each_wrong_argument(variant):
    q = heads_of((1, 2, 4, 16))
    cases = [
        ((q.astype(float), q, q), {}, r"^q is float64; attention takes float32, bfloat16, float16$"),
        ((q, q, [1.0]), {}, r"^v is a list, not an array"),
        ((q, q, q), {"window": -1}, r"^window is -1; it must be a number of keys, or None"),
        ((q, q, q), {"scale": 0.0}, r"^scale is 0; leave it out for"),
        ((q, q[:, :, :, :15], q), {}, r"k .*shape|do not fit together"),
        ((q, q, q.astype(np.float16)), {}, r"one (d?type)$"),
        ((q[0], q, q), {}, r"\(batch, heads, "),
        ((heads_of((1, 3, 4, 16)), q, q), {}, r"^q has 3 heads, k and v 2; q's number must be a multiple of theirs$"),
        ((q, q, q), {"out": np.empty((1, 2, 4, 17), np.float32)}, r"out"),
        ((q, q, q), {"variant": "sse9"}, r"^there is no variant 'sse9'; this build has: "),
    ]
    if variant is None:
        read_only = np.empty_like(q)
        read_only.flags.writeable = False
        cases += [
            ((q, q, q), {"out": read_only}, r"^out is read-only; "),
            ((q, q, q), {"out": q}, r"^out and q span the same memory|^out shares memory with q"),
        ]
    for arguments, options, sentence in cases:
        with pytest.raises(InvalidArgument, match=sentence):
            attention(*arguments, **({"variant": variant} | options))


def test_the_visible_keys_are_those_of_the_definition():
    for q_len, kv_len, causal, window in [
        (5, 9, True, 2),
        (9, 5, True, None),
        (4, 4, False, 1),
        (7, 3, True, 0),
        (1, 8, True, 3),
    ]:
        first, stop = visible_keys(np.arange(q_len), (q_len, kv_len), causal, window)
        for i in range(q_len):
            place = i + kv_len - q_len
            expected = [
                j for j in range(kv_len) if (not causal or j <= place) and (window is None or place - j <= window)
            ]
            assert list(range(first[i], stop[i])) == expected


def test_the_work_model_counts_the_visible_pairs_exactly():
    whole = AttentionProblem(2, 4, 2, 8, 8, 16, "float32")
    assert (whole.pairs, whole.flops) == (64, 4 * 2 * 4 * 64 * 16)
    assert AttentionProblem(2, 4, 2, 8, 8, 16, "float32", causal=True).pairs == 36
    assert AttentionProblem(1, 1, 1, 8, 8, 16, "float32", causal=True, window=1).pairs == 15
    assert whole.bytes == 2 * (2 * 4 * 8 + 2 * 2 * 8) * 16 * 4
    label = AttentionProblem(1, 4, 2, 8, 9, 16, "float16", causal=True, window=3, pattern="zeros", seed=2).label
    assert label == "float16 1x4/2x8x9x16 causal window 3 zeros seed 2"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("q_len", 0, "q_len is 0; it must be an integer of at least 1"),
        ("head_dim", 8, "head_dim is 8; it must be an integer of at least 16"),
        ("head_dim", 300, "head_dim is 300; it must be at most 256"),
        ("heads", 3, "heads is 3, which is no multiple of kv_heads, 2"),
        ("window", -1, "window is -1; it must be an integer of at least 0"),
        ("dtype", "float64", "dtype is 'float64'; it must be one of float32"),
    ],
)
def test_a_problem_that_cannot_be_meant_is_refused(field, value, sentence):
    values = {"batch": 1, "heads": 2, "kv_heads": 2, "q_len": 4, "kv_len": 4, "head_dim": 16, "dtype": "float32"}
    with pytest.raises(ValueError, match=sentence):
        AttentionProblem(**(values | {field: value}))


@pytest.mark.parametrize("affordable", [2**26, 4000])
def test_verification_finds_a_key_too_many_a_wrong_element_and_a_hole(affordable, monkeypatch):
    monkeypatch.setattr(attention_problem, "_AFFORDABLE_SCORES", affordable)  # the second: a sample of rows
    monkeypatch.setattr(attention_problem, "_PANEL_SCORES", 500)  # several panels
    problem = AttentionProblem(1, 4, 2, 60, 100, 16, "float32", causal=True, pattern="integers")
    inputs = problem.inputs()
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    out = attention(q, k, v, causal=True)
    check = problem.verify(out, inputs)
    assert check.passed, check.first_wrong
    assert check.method.startswith("every element" if affordable == 2**26 else "row sample")
    assert not problem.verify(attention(q, k, v), inputs).passed
    assert not problem.verify(attention(q, k[:, :, :-1], v[:, :, :-1], causal=True), inputs).passed
    for row, value in ((0, 9.0), (59, np.nan), (31, np.inf), (31, -4.5)):
        wrong = out.copy()
        wrong[0, 3, row, 5] = value
        assert not problem.verify(wrong, inputs).passed
    assert not problem.verify(out[:, :, 1:], inputs).passed


def test_a_wrong_scale_or_a_swapped_group_is_beyond_the_bound():
    for dtype in ATTENTION_DTYPES:
        problem = AttentionProblem(1, 4, 2, 33, 65, 32, dtype)
        inputs = problem.inputs()
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        assert problem.verify(attention(q, k, v), inputs).passed
        assert not problem.verify(attention(q, k, v, scale=0.98 * 32**-0.5), inputs).passed
        assert not problem.verify(attention(q, k[:, ::-1], v[:, ::-1]), inputs).passed


def test_weights_rounded_to_float16_as_tensor_cores_need_it_are_within_the_bound_even_where_they_are_subnormal():
    problem = AttentionProblem(1, 1, 1, 64, 512, 64, "float16")
    inputs = problem.inputs()
    inputs["q"] *= np.float16(24)
    inputs["v"] *= np.float16(1000)
    q, k, v = (inputs[name][0, 0] for name in "qkv")
    # The key that takes nearly all the weight has no value: what is left comes from the smallest weights.
    v[(q.astype(float) @ k.T.astype(float)).argmax(axis=1)] = 0
    q, k, v = (array.astype(np.float32) for array in (q, k, v))
    scores = q @ k.T * np.float32(1 / 8)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert ((weights > 0) & (weights < 2.0**-14)).any()
    out = weights.astype(np.float16).astype(np.float32) @ v / weights.sum(axis=1, keepdims=True)
    result = out.astype(np.float16)[None, None]
    check = problem.verify(result, inputs)
    assert check.passed, check.first_wrong
    result[0, 0, 5, 7] += np.float16(0.5)
    assert not problem.verify(result, inputs).passed


def test_numba_on_cuda_follows_the_formula_in_the_simulator():
    program = """
import numpy as np
from pyhpc.kernels.attention_problem import AttentionProblem
from pyhpc.kernels.numba_attention import attend_cuda
from numba import cuda
problem = AttentionProblem(1, 2, 1, 3, 2, 16, "float32", causal=True)
inputs = problem.inputs()
out = cuda.to_device(problem.output())
attend_cuda(tuple(cuda.to_device(inputs[x]) for x in "qkv"), out, problem.head_dim**-0.5, problem.visible)
check = problem.verify(out.copy_to_host(), inputs)
assert check.passed, check.first_wrong
"""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=environment)
