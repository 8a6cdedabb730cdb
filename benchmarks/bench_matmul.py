"""C = A B beside NumPy, PyTorch (also with packed weights), OpenBLAS, MKL, BLIS, Numba, and AOCL where it is found.

    python benchmarks/bench_matmul.py [--quick] [--threads 1,2] [--dtype float32] [--json FILE] [--plot FILE]

prints one line for each shape, dtype and number of threads: every contestant's rate, ours as a fraction of the limit
measured in the same rounds (FMA peak; memory for what is read once from beyond the caches) and of the best peer. It is
`pyhpc bench matmul --shapes full`; all of it takes about an hour, --quick under a minute. Under pytest the problems
below meet every CPU variant and peer (conftest.py).
"""

from __future__ import annotations

import click

from pyhpc.bench import bench_command
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


@click.command(help="Compare matmul with its peers, row by row.")
@click.option("--quick", is_flag=True, help="Two shapes in float32 on one thread.")
@click.option("--threads", default="", help="Such as 1,2; 0: all cores. Default: 1 and all, with --quick 1.")
@click.option("--dtype", "dtypes", multiple=True, help="Repeatable; default: every dtype, with --quick float32.")
@click.option("--json", "json_path", metavar="FILE", help="Also write all figures as JSON.")
@click.option("--plot", "plot_path", metavar="FILE", help="Also draw them: .png, .svg or .pdf.")
def main(quick: bool, threads: str, dtypes: tuple[str, ...], json_path: str | None, plot_path: str | None) -> None:
    """Run the comparison and exit with its status."""
    counts = [int(count) for count in threads.split(",") if count] or ([1] if quick else [1, 0])
    rows = "quick" if quick else "full"
    raise SystemExit(bench_command(KERNEL, [rows], dtypes, [], counts, json_path, plot_path))


if __name__ == "__main__":
    main()
