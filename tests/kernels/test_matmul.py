"""pyhpc.matmul as its users meet it, and the proof of its results."""

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhpc import matmul, pack
from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels import matmul_problem
from pyhpc.kernels.data import DTYPES, operand
from pyhpc.kernels.matmul_problem import RESULT_DTYPE, MatmulProblem


def small_integers(shape, dtype, seed=0):
    """Operands whose products and sums are exact in every type."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(DTYPES[dtype])


def strided(array, form):
    """The same values in another layout."""
    if form == "transposed":
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
    if form == "reversed":
        return np.ascontiguousarray(array[..., ::-1, ::-1])[..., ::-1, ::-1]
    if form == "sliced":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)
        wide[..., 1::2] = array
        return wide[..., 1::2]
    return array


FORMS = st.sampled_from(["plain", "transposed", "reversed", "sliced"])
SIZES = st.integers(0, 40)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), dtype=st.sampled_from(list(RESULT_DTYPE)), m=SIZES, n=SIZES, k=SIZES, forms=st.tuples(FORMS, FORMS)
)
def test_any_shape_layout_batch_and_dtype_gives_the_exact_product_of_integers(data, dtype, m, n, k, forms):
    batch_a, batch_b = data.draw(
        st.sampled_from([((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((1,), (2,)), ((0,), (1,))])
    )
    a, b = small_integers((*batch_a, m, k), dtype), small_integers((*batch_b, k, n), dtype, seed=1)
    c = matmul(strided(a, forms[0]), strided(b, forms[1]))
    assert c.dtype == RESULT_DTYPE[dtype]
    np.testing.assert_array_equal(c, np.matmul(a.astype(np.float64), b.astype(np.float64)))


@pytest.mark.parametrize("shapes", [((5,), (5,)), ((5,), (5, 3)), ((4, 5), (5,)), ((5,), (2, 5, 3)), ((2, 4, 5), (5,))])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_vectors_are_multiplied_as_numpy_does(shapes, kind):
    a, b = (small_integers(shape, "float32", seed) for seed, shape in enumerate(shapes))
    expected = np.matmul(a, b)
    if kind == "torch":
        torch = pytest.importorskip("torch")
        a, b = torch.from_numpy(a), torch.from_numpy(b)
    for out in (None, np.empty(expected.shape, np.float32)):
        given_out = torch.from_numpy(out) if kind == "torch" and out is not None else out
        c = matmul(a, b, out=given_out)
        assert tuple(c.shape) == expected.shape
        np.testing.assert_array_equal(np.asarray(c), expected)


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_torch_tensors_give_torch_tensors(dtype):
    torch = pytest.importorskip("torch")
    a, b = small_integers((3, 4, 5), "float32"), small_integers((5, 6), "float32", 1)
    kind = getattr(torch, dtype)
    c = matmul(torch.from_numpy(a).to(kind), torch.from_numpy(b).to(kind))
    assert isinstance(c, torch.Tensor)
    assert c.dtype == getattr(torch, RESULT_DTYPE[dtype])
    np.testing.assert_array_equal(c.numpy(), a @ b)
    out = torch.empty_like(c)
    assert matmul(torch.from_numpy(a).to(kind), torch.from_numpy(b).to(kind), out=out) is out
    assert torch.equal(out, c)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_tensors_of_every_kind_are_multiplied_as_they_are(dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    a = torch.arange(-30, 30).to(kind).reshape(3, 5, 4)
    b = torch.arange(-12, 12).to(kind).reshape(6, 4).T[:, 1::2]
    exact = torch.matmul(a.long(), b.long())
    assert torch.equal(matmul(a[1], b).long(), exact[1])
    assert torch.equal(matmul(a, b, threads=1).long(), exact)
    assert torch.equal(matmul(a, pack(b)).long(), exact)
    assert torch.equal(matmul(a[:, :0], b), torch.empty(3, 0, 3, dtype=getattr(torch, RESULT_DTYPE[dtype])))
    out = torch.ones(3, 3, 5, dtype=getattr(torch, RESULT_DTYPE[dtype])).mT
    assert matmul(a, b, out=out, accumulate=True) is out
    assert torch.equal(out.long(), exact + 1)
    with torch.device("meta"), torch.no_grad():  # neither where new tensors are made nor gradients matter
        parameter = torch.nn.Parameter(a.float()) if dtype == "float32" else a
        assert torch.equal(matmul(parameter, b).long().cpu(), exact)


def test_tensors_that_hide_their_memory_are_refused_with_the_reason():
    torch = pytest.importorskip("torch")
    ones = torch.ones(2, 2)
    negated = torch.complex(ones, ones).conj().imag
    assert negated.is_neg()
    assert matmul(negated.resolve_neg(), ones).tolist() == [[-2, -2], [-2, -2]]
    for tensor, sentence in [
        (negated, r"^a is a negated view of memory; give a\.resolve_neg\(\)"),
        (ones.to_sparse(), r"^a is torch\.sparse_coo; give a\.to_dense\(\)"),
        (torch.ones(2, 2, requires_grad=True), r"^a requires grad, and pyhpc computes no gradients"),
        (ones > 0, "^a has bool elements, which no kernel takes"),
        (torch.complex(ones, ones), "^a has complex elements, which no kernel takes"),
        (torch.ones(2, 2, dtype=torch.int64), "^a and b are int64; matmul takes"),
    ]:
        with pytest.raises(InvalidArgument, match=sentence):
            matmul(tensor, tensor)
    with pytest.raises(InvalidArgument, match=r"^out shares memory with a"):
        matmul(out := torch.ones(2, 2), torch.ones(2, 2), out=out)
    with pytest.raises(InvalidArgument, match=r"^accumulate=True adds to out; give out"):
        matmul(torch.ones(2, 2), torch.ones(2, 2), accumulate=True)


def test_out_is_the_callers_array_and_accumulate_adds_to_it():
    a, b = small_integers((3, 4), "float32"), small_integers((4, 5), "float32", 1)
    out = np.ones((5, 3), np.float32).T
    assert matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, a @ b)
    matmul(a, b, out=out, accumulate=True)
    np.testing.assert_array_equal(out, 2 * (a @ b))


def test_buffers_give_numpy_arrays():
    a, b = np.arange(6.0).reshape(2, 3), np.ones((3, 2))
    c = matmul(memoryview(a), memoryview(b))
    assert type(c) is np.ndarray
    np.testing.assert_array_equal(c, a @ b)


def test_nan_and_infinity_reach_the_elements_they_belong_to():
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    a[1, 2], b[0, 3] = np.nan, np.inf
    expected = a @ b
    np.testing.assert_array_equal(matmul(a, b), expected)


@pytest.mark.parametrize("variant", [None, "numba"])
def test_one_clear_sentence_for_each_wrong_argument(variant):
    a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    read_only = np.ones((2, 4), np.float32)
    read_only.flags.writeable = False
    cases = [
        ((a, b.T), {}, r"^a \(2, 3\) has k = 3 columns, but b \(4, 3\) has 4 rows; they must be equal$"),
        ((a.astype(np.int64), b), {}, r"^a and b are int64; matmul takes float64, float32, bfloat16, float16, int8$"),
        ((np.float32(1), b), {}, r"^a has shape \(\); it must be a vector or at least \(..., m, k\)$"),
        ((a, [[1.0]]), {}, r"^b is a list, not an array: give NumPy"),
        ((a, b), {"accumulate": True}, r"^accumulate=True adds to out; give out$"),
        (
            (np.ones((2, 1, 2)), np.ones((3, 2, 1))),
            {},
            r"batch dimensions of a \(2, 1, 2\) and b \(3, 2, 1\) do not broadcast",
        ),
        ((a, b), {"variant": "sse9"}, r"there is no variant 'sse9'; this build has: .*generic"),
    ]
    if variant is None:
        cases += [
            ((a, b.astype(np.float64)), {}, r"^a is float32 and b is float64; they must be of the same dtype$"),
            ((a, b), {"out": np.ones((2, 4))}, r"^out is float64; the product of float32 arrays is float32$"),
            (
                (a, b),
                {"out": np.ones((4, 2), np.float32)},
                r"^out has shape \(4, 2\); a \(2, 3\) times b \(3, 4\) needs \(2, 4\)$",
            ),
            ((a, b), {"out": read_only}, r"^out is read-only; give an array that can be written$"),
            ((b[:3, :3], b[:3, :3]), {"out": b[:3, :3]}, r"^out shares memory with a; "),
            ((a, b), {"threads": -1}, r"^threads is -1; "),
            ((a, b.astype(">f4")), {}, r"b is big-endian"),
        ]
    for arguments, options, sentence in cases:
        with pytest.raises(InvalidArgument, match=sentence):
            matmul(*arguments, **({"variant": variant} | options))


def test_libraries_are_not_mixed():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        InvalidArgument, match=r"^a is a NumPy array or buffer and b is a PyTorch tensor; give arrays of one"
    ):
        matmul(np.ones((2, 2)), torch.ones(2, 2))
    with pytest.raises(InvalidArgument, match=r"^a is a NumPy array or buffer and out is a PyTorch tensor"):
        matmul(np.ones((2, 2)), np.ones((2, 2)), out=torch.ones(2, 2))


def test_arrays_on_a_gpu_say_why_cuda_is_absent():
    from pyhpc.native import cuda_absence

    if cuda_absence() is None:
        pytest.skip("CUDA is present")
    device_array = type("Array", (), {"shape": (2, 2), "dtype": "float32", "__dlpack_device__": lambda self: (2, 0)})()
    device_array.__cuda_array_interface__ = {"data": (4096, False), "shape": (2, 2), "typestr": "<f4"}
    out = type(device_array)()
    out.__cuda_array_interface__ = device_array.__cuda_array_interface__
    with pytest.raises(Unsupported, match=r"^CUDA is absent because "):
        matmul(device_array, device_array, out=out)
    with pytest.raises(InvalidArgument, match="threads is for arrays on the CPU"):
        matmul(device_array, device_array, out=out, threads=2)


def test_arrays_derived_from_numpys_and_arrays_of_numpy_give_the_same():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    derived = a.view(type("Derived", (np.ndarray,), {}))
    for left, right in ((derived, a.T), (a, derived.T), (derived, derived.T)):
        np.testing.assert_array_equal(matmul(left, right), a @ a.T)
    out = np.empty((2, 2), np.float32)
    assert matmul(a, a.T, out=out) is out
    fresh = matmul(a, a.T)
    assert fresh.flags.c_contiguous
    assert fresh.flags.owndata
    assert fresh.flags.writeable


def test_the_environment_chooses_the_variant(monkeypatch):
    a = np.ones((2, 2))
    monkeypatch.setenv("PYHPC_VARIANT", "no-such")
    with pytest.raises(InvalidArgument, match="there is no variant 'no-such'"):
        matmul(a, a)
    np.testing.assert_array_equal(matmul(a, a, variant="generic"), a @ a)


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
@pytest.mark.parametrize(("m", "n", "k"), [(397, 203, 700), (1003, 65, 500), (103, 1501, 900)])
def test_the_bits_do_not_depend_on_the_team_that_shares_out_the_rows(dtype, m, n, k):
    a, b = operand((m, k), dtype, "normal", 1, "a"), operand((k, n), dtype, "normal", 1, "b")
    alone = matmul(a, b, threads=1)
    for threads in (2, 3, 4, 7, 16):
        out = np.full_like(alone, np.nan if alone.dtype.kind == "f" else 77)
        np.testing.assert_array_equal(matmul(a, b, out=out, threads=threads), alone)
        np.testing.assert_array_equal(matmul(a, b, threads=threads, check=True), alone)


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_numba_is_a_variant_of_the_public_function(dtype):
    a, b = small_integers((2, 5, 7), dtype), small_integers((7, 3), dtype, 1)
    out = np.ones((2, 5, 3), RESULT_DTYPE[dtype])
    matmul(a, b, out=out, accumulate=True, variant="numba", threads=1)
    np.testing.assert_array_equal(out, 1 + np.matmul(a.astype(float), b.astype(float)))


def test_operands_of_a_gigabyte_are_not_copied():
    # Read through a view of stride 0, so the gigabyte exists only if somebody copies it; the peak is the process's own.
    program = """
import resource
import numpy as np
from pyhpc import matmul
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
a = np.broadcast_to(np.ones((1, 1024), np.float32), (1 << 18, 1024))
b, out = np.ones((1024, 1), np.float32), np.zeros((1 << 18, 1), np.float32)
matmul(a[:1], b, out=out[:1])
before = peak()
assert matmul(a, b, out=out) is out and (out == 1024).all()
print(peak() - before)
"""
    grown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(grown.stdout) < 200_000, "KiB of a copy"


def test_other_python_threads_run_while_a_product_is_computed():
    rows = 60_000
    a, b = np.ones((rows, 512)), np.ones((512, 96))
    out = np.full((rows, 96), np.nan)
    done = threading.Event()
    worker = threading.Thread(target=lambda: (matmul(a, b, out=out, threads=1), done.set()))
    worker.start()
    seen_half_done = False
    while not done.is_set() and not seen_half_done:
        # Only code that runs during the call can see one element written and another not.
        seen_half_done = not np.isnan(out[0, 0]) and np.isnan(out[-1, -1])
    worker.join()
    assert seen_half_done
    assert (out == 512).all()


def test_the_work_model_counts_each_product_and_each_operand_once():
    problem = MatmulProblem(3, 5, 7, "bfloat16", batch=2)
    assert problem.flops == 2 * 2 * 3 * 5 * 7
    assert problem.bytes == 2 * ((3 * 7 + 7 * 5) * 2 + 3 * 5 * 4)
    assert MatmulProblem(3, 5, 7, "int8", transpose_b=True, seed=1).label == "int8 3x5x7 nt seed 1"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("m", 0, "m is 0; it must be an integer of at least 1"),
        ("k", 2.5, "k is 2.5; it must be an integer"),
        ("n", True, "n is True; it must be an integer"),
        ("dtype", "float8", "dtype is 'float8'; it must be one of float64"),
        ("pattern", "random", "pattern is 'random'; it must be one of normal"),
        ("k", 200_000, "k is 200000; int8 products sum without int32 overflow up to k = 133144"),
    ],
)
def test_a_problem_that_cannot_be_meant_is_refused(field, value, sentence):
    values = {"m": 1, "n": 1, "k": 1, "dtype": "int8"} | {field: value}
    with pytest.raises(ValueError, match=sentence):
        MatmulProblem(**values)


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
@pytest.mark.parametrize("affordable", [2**34, 2**10])
def test_verification_finds_one_wrong_element_a_dropped_product_and_a_hole(dtype, affordable, monkeypatch):
    monkeypatch.setattr(matmul_problem, "_AFFORDABLE_FLOPS", affordable)  # the second: row sample and checksum
    monkeypatch.setattr(matmul_problem, "_SAMPLE_FLOPS", 1)
    monkeypatch.setattr(matmul_problem, "_PANEL_ELEMENTS", 64)  # several panels
    problem = MatmulProblem(20, 30, 40, dtype, pattern="integers")
    inputs, out = problem.inputs(), problem.output()
    matmul(inputs["a"], inputs["b"], out=out)
    check = problem.verify(out, inputs)
    assert check.passed, check.first_wrong
    assert check.method.startswith(
        "every element" if affordable == 2**34 else "row sample and Freivalds checksum of 47"
    )
    for change in (
        lambda c: c.__setitem__((19, 29), c[19, 29] + 1),
        lambda c: c.__setitem__((7, 3), problem.output()[0, 0]),
    ):
        wrong = out.copy()
        change(wrong)
        assert not problem.verify(wrong, inputs).passed
    dropped = matmul(inputs["a"][:, 1:], inputs["b"][1:])
    assert not problem.verify(dropped, inputs).passed
    assert not problem.verify(out[:-1], inputs).passed


def test_an_error_beyond_the_bound_is_found_and_one_within_it_is_not():
    problem = MatmulProblem(4, 4, 100, "float32")
    inputs = problem.inputs()
    magnitude = np.abs(inputs["a"]).astype(float) @ np.abs(inputs["b"]).astype(float)
    exact = inputs["a"].astype(float) @ inputs["b"].astype(float)
    bound = 100 * 2.0**-24 * magnitude
    assert problem.verify(exact + 0.99 * bound, inputs).passed
    check = problem.verify(exact + 1.01 * bound, inputs)
    assert check.wrong == 16
    assert check.first_wrong.startswith("c[0, 0] is ")


def test_a_bfloat16_result_is_granted_its_own_rounding():
    problem = MatmulProblem(5, 5, 5, "bfloat16")
    inputs = problem.inputs()
    exact = inputs["a"].astype(np.float32) @ inputs["b"].astype(np.float32)
    rounded = exact.astype(ml_dtypes.bfloat16)
    assert problem.verify(rounded, inputs).passed
    assert not problem.verify(rounded.astype(np.float32), inputs).passed


def test_inputs_are_the_same_each_time_and_differ_by_seed_and_operand():
    problem = MatmulProblem(8, 8, 8, "float32")
    again, other = problem.inputs(), MatmulProblem(8, 8, 8, "float32", seed=1).inputs()
    np.testing.assert_array_equal(problem.inputs()["a"], again["a"])
    assert not np.array_equal(again["a"], other["a"])
    assert not np.array_equal(again["a"], again["b"])


def test_numba_on_cuda_computes_the_product_in_the_simulator():
    pytest.importorskip("numba")
    program = """
import numpy as np
from pyhpc.kernels.numba_matmul import multiply_cuda
from numba import cuda
a, b = np.arange(12.0, dtype=np.float32).reshape(3, 4) - 5, np.arange(8.0, dtype=np.float32).reshape(4, 2)
out = cuda.to_device(np.zeros((3, 2), np.float32))
multiply_cuda(cuda.to_device(a), cuda.to_device(b), out)
assert (out.copy_to_host() == a @ b).all()
"""

    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=environment)
