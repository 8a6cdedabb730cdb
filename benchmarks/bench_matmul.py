"""C = A B: squares in every dtype, thin and batched shapes; every CPU variant beside NumPy and PyTorch."""

from __future__ import annotations

from pyhpc.kernels.matmul import MatmulProblem

KERNEL = "matmul"

SQUARES = [MatmulProblem(size, size, size, "float32") for size in (64, 256, 1024)]
DTYPES = [MatmulProblem(512, 512, 512, dtype) for dtype in ("float64", "bfloat16", "float16", "int8")]
SHAPES = [
    MatmulProblem(1, 2048, 2048, "float32"),  # one row: decoding, bound by memory
    MatmulProblem(16, 2048, 2048, "float32"),
    MatmulProblem(512, 512, 512, "float32", transpose_a=True, transpose_b=True),
    MatmulProblem(64, 64, 64, "float32", batch=64),
]
PROBLEMS = SQUARES + DTYPES + SHAPES


def test_matmul(measure, contestant):
    measure(contestant)
