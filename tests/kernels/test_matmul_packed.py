"""Packed operands: the product of the matrix they were made of, for any a, from any thread; errors in a sentence."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from pyhpc import matmul, pack
from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels.data import operand
from pyhpc.kernels.matmul_problem import RESULT_DTYPE, MatmulProblem
from pyhpc.native import cpu

VARIANTS = [name for name, refusal in cpu().matmul.variants() if not refusal]


def draw(shape, dtype, name):
    return operand(shape, dtype, "normal", 1, name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_products_are_right_for_odd_sizes_and_any_layout(variant, dtype):
    for m, n, k in ((1, 1, 1), (1, 65, 300), (7, 130, 129), (97, 35, 700), (40, 1, 33), (150, 200, 65)):
        problem = MatmulProblem(m, n, k, dtype)
        arrays = problem.inputs()
        for b in (arrays["b"], np.asfortranarray(arrays["b"]), np.repeat(arrays["b"], 2, axis=1)[::-1, ::2][::-1]):
            packed = pack(b, variant=variant)
            for threads in (1, 2):
                check = problem.verify(matmul(arrays["a"], packed, variant=variant, threads=threads), arrays)
                assert check.passed, check.first_wrong
            out = np.full((n, m), 5, RESULT_DTYPE[dtype]).T
            matmul(arrays["a"], packed, out=out, accumulate=True)
            np.testing.assert_allclose(out - 5, matmul(arrays["a"], b), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_with_many_rows_the_bits_are_those_of_the_plain_product_whatever_the_threads(variant, dtype):
    a, b = draw((300, 700), dtype, "a"), draw((700, 150), dtype, "b")
    packed = pack(b, variant=variant)
    plain = matmul(a, b, variant=variant).tobytes()
    assert {matmul(a, packed, threads=threads).tobytes() for threads in (1, 2, 3)} == {plain}


def test_the_bits_of_few_rows_do_not_depend_on_the_threads():
    packed = pack(draw((3000, 500), "float32", "b"))
    for rows in (1, 4, 17):
        a = draw((rows, 3000), "float32", "a")
        assert len({matmul(a, packed, threads=threads).tobytes() for threads in (1, 2, 5)}) == 1


@pytest.mark.parametrize("dtype", list(RESULT_DTYPE))
def test_a_may_be_a_batch_a_vector_or_empty(dtype):
    b = operand((9, 20), dtype, "integers", 1, "b")
    packed = pack(b)
    for shape in ((2, 3, 5, 9), (4, 1, 9), (9,), (0, 9), (2, 0, 9), (3, 2, 4, 1, 9)):
        a = operand(shape, dtype, "integers", 1, "a")
        for left in (a, np.ascontiguousarray(a[..., ::-1])[..., ::-1]):
            product = matmul(left, packed)
            np.testing.assert_array_equal(product, matmul(left, b))
            assert product.dtype == RESULT_DTYPE[dtype]
    scattered = operand((4, 6, 9), dtype, "integers", 2, "a")[:, ::2]
    np.testing.assert_array_equal(matmul(scattered, packed), matmul(scattered, b))


def test_empty_matrices_can_be_packed():
    for k, n in ((0, 5), (5, 0), (0, 0)):
        packed = pack(np.ones((k, n), np.float32))
        np.testing.assert_array_equal(matmul(np.ones((3, k), np.float32), packed), np.zeros((3, n)))


def test_it_says_what_it_is_and_keeps_nothing_of_b():
    b = draw((64, 48), "bfloat16", "b")
    packed = pack(b, variant="generic")
    assert (packed.shape, packed.dtype, packed.variant) == ((64, 48), "bfloat16", "generic")
    assert packed.nbytes >= 64 * 48 * 2
    assert repr(packed) == f"<pyhpc packed bfloat16 (64, 48) for generic, {packed.nbytes} bytes>"
    with pytest.raises(AttributeError):
        packed.shape = (1, 1)
    a = draw((3, 64), "bfloat16", "a")
    before, alive = matmul(a, packed), weakref.ref(b)
    b[:] = 0
    np.testing.assert_array_equal(matmul(a, packed), before)
    del b
    gc.collect()
    assert alive() is None


def test_threads_may_share_it():
    a, b = draw((60, 500), "float32", "a"), draw((500, 400), "float32", "b")
    packed = pack(b)
    expected, wrong = matmul(a, packed), []

    def use():
        for _ in range(20):
            if not np.array_equal(matmul(a, packed, threads=1), expected):
                wrong.append(threading.get_ident())

    workers = [threading.Thread(target=use) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_tensors_are_packed_and_multiplied():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(6, 40).to(dtype), torch.randn(40, 30).to(dtype)
        product = matmul(a, pack(b))
        assert isinstance(product, torch.Tensor)
        assert torch.allclose(product, a.float() @ b.float(), atol=1e-4)


def test_what_does_not_fit_is_said_in_a_sentence(monkeypatch):
    b = np.ones((4, 3), np.float32)
    packed = pack(b)
    a = np.ones((2, 4), np.float32)
    cases = [
        (lambda: matmul(a[:, :3], packed), r"a \(2, 3\) has k = 3 columns, but b \(4, 3\) has 4 rows"),
        (lambda: matmul(a.astype(float), packed), "a is float64 and b is float32"),
        (lambda: matmul(a, packed, out=np.ones((3, 3), np.float32)), r"out has shape \(3, 3\); .* needs \(2, 3\)"),
        (lambda: matmul(a, packed, check=True), "b is packed, which check and numba cannot read"),
        (lambda: matmul(a, packed, variant="numba"), "b is packed, which check and numba cannot read"),
        (lambda: cpu().matmul.check(a, packed, np.ones((2, 3), np.float32)), "give the array instead of the packed"),
        (lambda: pack(np.ones((2, 4, 3))), r"b has shape \(2, 4, 3\); pack takes one matrix"),
        (lambda: pack(np.ones((4, 3), np.int64)), "a and b are int64; matmul takes"),
        (lambda: pack("weights"), "b is a str, not an array"),
        (lambda: matmul(packed, b), "a is a Packed, not an array"),
    ]
    for call, sentence in cases:
        with pytest.raises(InvalidArgument, match=sentence):
            call()
    other = "generic" if packed.variant != "generic" else "avx2"
    with pytest.raises(
        (InvalidArgument, Unsupported), match=f"variant {packed.variant}, but {other} is asked for|cannot"
    ):
        matmul(a, packed, variant=other)
    np.testing.assert_array_equal(matmul(a, packed, variant=packed.variant), a @ b)
    monkeypatch.setenv("PYHPC_VARIANT", "generic")
    if packed.variant != "generic":
        with pytest.raises(InvalidArgument, match=r"but generic is asked for; pack it again$"):
            matmul(a, packed)
    assert pack(b).variant == "generic"
