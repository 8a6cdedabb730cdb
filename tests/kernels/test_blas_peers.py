"""The BLAS libraries as peers: what each refuses and why. That they are right is tests/kernels/test_contract.py's."""

from __future__ import annotations

import numpy as np
import pytest

from pyhpc.bench.library import blas_library
from pyhpc.errors import Unsupported
from pyhpc.kernels import blas_peers
from pyhpc.kernels.kernel import kernels
from pyhpc.kernels.matmul_problem import MatmulProblem

PEERS = {peer.name: peer for peer in kernels()["matmul"].peers()}


@pytest.mark.parametrize(
    ("peer", "problem", "reason"),
    [
        ("openblas", MatmulProblem(2, 2, 2, "bfloat16"), "openblas has no product of bfloat16"),
        ("aocl", MatmulProblem(2, 2, 2, "int8"), "aocl has no product of int8"),
        ("mkl", MatmulProblem(2, 2, 2, "float32", batch=2), "CBLAS multiplies one pair"),
        ("blis", MatmulProblem(2, 2, 2, "float64", transpose_a=True), "transposed float64"),
        ("blis", MatmulProblem(2, 2, 2, "float32", batch=2), "one pair"),
        ("torch-packed", MatmulProblem(2, 2, 2, "int8"), "packs no int8"),
        ("torch-packed", MatmulProblem(2, 2, 2, "float32", transpose_a=True), "row-major"),
    ],
)
def test_a_peer_says_what_it_does_not_take(peer, problem, reason):
    assert reason in PEERS[peer].reject(problem)


def test_an_absent_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(blas_peers.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'pyhpc[peers]'" in PEERS["blis"].reject(MatmulProblem(2, 2, 2, "float32"))


def test_blis_has_one_thread():
    pytest.importorskip("blis")
    problem = MatmulProblem(2, 2, 2, "float32")
    with pytest.raises(Unsupported, match="without threads"):
        PEERS["blis"].run(problem, problem.inputs(), problem.output(), 2)


def test_the_library_of_a_peer_is_told_where_the_machine_chooses_its_kernels():
    np.ones((2, 2)) @ np.ones((2, 2))
    assert blas_library("numpy").split()[0] in ("OpenBLAS", "MKL", "")
    assert blas_library("mkl") == ""
