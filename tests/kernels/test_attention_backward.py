"""pyhpc.attention_backward as its users meet it, and the proof of its results."""

import numpy as np
import pytest

from pyhpc import attention, attention_backward
from pyhpc.errors import InvalidArgument
from pyhpc.kernels import attention_backward_problem
from pyhpc.kernels.attention_backward_problem import AttentionBackwardProblem
from pyhpc.kernels.attention_problem import ATTENTION_DTYPES
from pyhpc.kernels.data import DTYPES
from pyhpc.native import cpu

VARIANTS = [name for name, refusal in cpu().attention.variants() if not refusal]


def draw(q_len, kv_len, heads=(1, 1), depth=16, dtype="float32", seed=0):
    """dout, q, k, v."""
    random = np.random.default_rng(seed)
    queries, keys = (1, heads[0], q_len, depth), (1, heads[1], kv_len, depth)
    return [random.standard_normal(shape).astype(DTYPES[dtype]) for shape in (queries, queries, keys, keys)]


def gradients_of(dout, q, k, v, variant=None, threads=None, **masks):
    """All three, written into arrays of NaN."""
    out, lse = attention(q, k, v, return_lse=True, **masks)
    results = tuple(np.full_like(x, np.nan) for x in (q, k, v))
    found = attention_backward(dout, q, k, v, out, lse, gradients=results, variant=variant, threads=threads, **masks)
    assert all(x is y for x, y in zip(found, results, strict=True))
    return found


@pytest.mark.parametrize("variant", [*VARIANTS, "numba"])
def test_gradients_are_the_slopes_of_the_forward_run(variant):
    """A step along a random direction changes Σ dout ∘ out by the scalar product of gradient and direction."""
    dout, q, k, v = draw(17, 33, (4, 2))
    masks = {"causal": True, "window": 20, "scale": 0.3}
    found = gradients_of(dout, q, k, v, variant, **masks)
    step = 2.0**-7
    for place, gradient in enumerate(found):
        direction = draw(17, 33, (4, 2), seed=5)[place + 1]
        ends = []
        for sign in (1, -1):
            moved = [q, k, v]
            moved[place] = (moved[place] + np.float32(sign * step) * direction).astype(np.float32)
            ends.append(np.sum(dout.astype(float) * attention(*moved, variant="numba", **masks)))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.sum(gradient.astype(float) * direction) == pytest.approx(slope, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ATTENTION_DTYPES)
@pytest.mark.parametrize(
    ("lengths", "masks"),
    [
        ((1, 3), {}),
        ((3, 1), {"causal": True}),  # the first queries see no key
        ((17, 129), {"window": 9}),
        ((129, 97), {"causal": True, "window": 64}),
        ((65, 1100), {"causal": True}),  # two spans of keys
    ],
)
def test_odd_lengths_and_masks_stay_within_the_bound(lengths, masks, dtype, variant):
    problem = AttentionBackwardProblem(1, 4, 2, *lengths, 33, dtype, **masks)
    arrays, result = problem.inputs(), problem.output()
    dq, dk, dv = problem.gradients(result)
    read = (arrays[name] for name in ("dout", "q", "k", "v", "out", "lse"))
    attention_backward(*read, gradients=(dq, dk, dv), variant=variant, **masks)
    check = problem.verify(result, arrays)
    assert check.passed, check.first_wrong


@pytest.mark.parametrize("variant", VARIANTS)
def test_thread_counts_give_the_same_bits(variant):
    operands = draw(150, 1200, (4, 2), 20)
    single = gradients_of(*operands, variant, 1, causal=True)
    for threads in (2, 3):
        again = gradients_of(*operands, variant, threads, causal=True)
        assert all(np.array_equal(x, y) for x, y in zip(single, again, strict=True))


def test_any_strides_give_the_bits_of_contiguous_arrays():
    operands = draw(30, 110, (4, 2), 20)
    plain = gradients_of(*operands)
    turned = [np.repeat(x[..., ::-1], 2, axis=2)[:, :, ::2, ::-1] for x in operands]
    out, lse = attention(*turned[1:], return_lse=True)
    memory = [np.full((x.shape[3], x.shape[1], x.shape[2], 1), np.nan, x.dtype) for x in operands[1:]]
    results = tuple(x.transpose(3, 1, 2, 0)[:, ::-1] for x in memory)
    attention_backward(turned[0], *turned[1:], out, lse, gradients=results)
    assert all(np.array_equal(x, y) for x, y in zip(plain, results, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_hidden_pairs_contribute_nothing_whatever_their_values(bad, variant):
    dout, q, k, v = draw(60, 60)
    clean = gradients_of(dout, q, k, v, variant, causal=True)
    k[:, :, -1] = v[:, :, -1] = bad  # seen by the last query alone
    dq, dk, dv = gradients_of(dout, q, k, v, variant, causal=True)
    assert np.array_equal(dq[:, :, :-1], clean[0][:, :, :-1])
    assert not np.all(np.isfinite(dq[:, :, -1]))
    dout, q, k, v = draw(60, 60)
    dout[:, :, 0] = bad  # sees the first key alone
    dq, dk, dv = gradients_of(dout, q, k, v, variant, causal=True)
    assert np.array_equal(dv[:, :, 1:], clean[2][:, :, 1:])
    assert np.array_equal(dk[:, :, 1:], clean[1][:, :, 1:])
    assert not np.any(np.isfinite(dv[:, :, 0]))


def test_empty_lengths_give_zero_gradients():
    for q_len, kv_len in ((0, 5), (5, 0)):
        for gradient in gradients_of(*draw(q_len, kv_len)):
            assert not gradient.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_tensors_give_the_gradients_of_autograd(dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    dout, q, k, v = (torch.from_numpy(x).to(kind) for x in draw(40, 40, (4, 4), 32))
    out, lse = attention(q, k, v, causal=True, return_lse=True)
    found = attention_backward(dout, q, k, v, out, lse, causal=True)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    exact = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    expected = torch.autograd.grad(exact, leaves, dout.double())
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, torch.Tensor)
        assert mine.dtype == kind
        assert torch.allclose(mine.double(), theirs, rtol=0, atol=1e-5 if dtype == "float32" else 5e-2)


@pytest.mark.parametrize("variant", [None, "numba"])
def test_one_clear_sentence_for_each_wrong_argument(variant):
    dout, q, k, v = draw(4, 5, (2, 2))
    out, lse = attention(q, k, v, return_lse=True)
    given = {"dout": dout, "q": q, "k": k, "v": v, "out": out, "lse": lse}
    cases = [
        ({"q": q.astype(float)}, r"^q is float64; attention_backward takes float32, bfloat16, float16$"),
        ({"dout": [1.0]}, r"^dout is a list, not an array"),
        ({"window": -1}, r"^window is -1; it must be a number of keys, or None"),
        ({"scale": 0.0}, r"^scale is 0; leave it out for"),
        ({"dout": dout[:, :, :3]}, r"^dout .*q's shape|^dout is float32 .*; with this q and k"),
        ({"lse": lse.astype(float)}, r"^lse is float64"),
        ({"gradients": (np.empty_like(q), np.empty_like(q), np.empty_like(v))}, r"^dk "),
        ({"k": k[:, :1, :, :15]}, r"k .*shape|fit together"),
    ]
    if variant is None:
        read_only = np.empty_like(q)
        read_only.flags.writeable = False
        cases += [
            ({"gradients": (read_only, np.empty_like(k), np.empty_like(v))}, r"^dq is read-only; "),
            ({"gradients": (q, np.empty_like(k), np.empty_like(v))}, r"^dq and q span the same memory"),
            ({"gradients": (np.empty_like(q), k[:], np.empty_like(v))}, r"^dk and k span the same memory"),
            ({"dout": dout.astype(np.float16)}, r"^dout is float16; it must be q's type, float32$"),
        ]
    for changes, sentence in cases:
        with pytest.raises(InvalidArgument, match=sentence):
            attention_backward(**(given | {"variant": variant} | changes))


@pytest.mark.parametrize("affordable", [2**26, 3000])
def test_verification_finds_a_wrong_element_a_hole_and_a_wrong_mask(affordable, monkeypatch):
    monkeypatch.setattr(attention_backward_problem, "_AFFORDABLE_PAIRS", affordable)  # the second: a sample
    monkeypatch.setattr(attention_backward_problem, "_PANEL_PAIRS", 500)  # several panels
    problem = AttentionBackwardProblem(1, 4, 2, 40, 50, 16, "float32", causal=True)
    arrays, result = problem.inputs(), problem.output()
    read = [arrays[name] for name in ("dout", "q", "k", "v", "out", "lse")]
    attention_backward(*read, gradients=problem.gradients(result), causal=True)
    check = problem.verify(result, arrays)
    assert check.passed, check.first_wrong
    assert check.method.startswith("every element" if affordable == 2**26 else "a sample")
    for place in range(3):
        for value in (5.0, np.nan):
            wrong = result.copy()
            problem.gradients(wrong)[place][0, 1, -1, 3] = value
            assert not problem.verify(wrong, arrays).passed
    hole = result.copy()
    problem.gradients(hole)[0][0, 0, 17, 2] = np.nan
    assert not problem.verify(hole, arrays).passed
    attention_backward(*read, gradients=problem.gradients(result))
    assert not problem.verify(result, arrays).passed
    assert not problem.verify(result[1:], arrays).passed


def test_the_work_model_counts_five_products():
    problem = AttentionBackwardProblem(2, 4, 2, 8, 8, 16, "bfloat16", causal=True)
    assert problem.flops == 10 * 2 * 4 * 36 * 16
    assert problem.bytes == 2 * (4 * (4 + 2) * 8 * 16 * 2 + 4 * 8 * 4)
    assert problem.label == "bfloat16 2x4/2x8x8x16 causal"
