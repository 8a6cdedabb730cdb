"""Attention, forward and backward, beside PyTorch's scaled_dot_product_attention and the plain formula in NumPy.

    python benchmarks/bench_attention.py [--quick] [--backward] [--threads 1,2] [--dtype float32] [--json FILE]
        [--plot FILE]

prints one line for each shape, dtype and number of threads: every contestant's rate, ours as a fraction of the limit
measured in the same rounds (FMA peak; memory for caches of keys beyond the processor's) and of the best peer. It is
`pyhpc bench attention --shapes full`: lengths 512 to 8192, head dimensions 64 and 128, causal and not, grouped heads, a
window, and decoding against 4k to 32k keys. Under pytest the problems below meet every CPU variant and peer
(conftest.py).
"""

from __future__ import annotations

import click

from pyhpc.bench import bench_command
from pyhpc.kernels.attention import AttentionProblem

KERNEL = "attention"


def problem(q_len, kv_len, dtype="float32", head_dim=64, kv_heads=8, **mask):
    return AttentionProblem(1, 8, kv_heads, q_len, kv_len, head_dim, dtype, **mask)


PROBLEMS = [
    problem(512, 512),
    problem(512, 512, causal=True),
    problem(512, 512, dtype="bfloat16"),
    problem(512, 512, head_dim=128, causal=True, window=128),
    problem(512, 512, kv_heads=2),
    problem(1, 2048, head_dim=128),  # decoding: one query row
    problem(1, 2048, head_dim=128, kv_heads=1, dtype="bfloat16"),
]


def test_attention(measure, contestant):
    measure(contestant)


@click.command(help="Compare attention with its peers, row by row.")
@click.option("--quick", is_flag=True, help="Three shapes in float32 on one thread.")
@click.option("--backward", is_flag=True, help="The gradients instead of the forward run.")
@click.option("--threads", default="", help="Such as 1,2; 0: all cores. Default: 1 and all, with --quick 1.")
@click.option("--dtype", "dtypes", multiple=True, help="Repeatable; default: every dtype, with --quick float32.")
@click.option("--json", "json_path", metavar="FILE", help="Also write all figures as JSON.")
@click.option("--plot", "plot_path", metavar="FILE", help="Also draw them: .png, .svg or .pdf.")
def main(
    quick: bool, backward: bool, threads: str, dtypes: tuple[str, ...], json_path: str | None, plot_path: str | None
) -> None:
    """Run the comparison and exit with its status."""
    counts = [int(count) for count in threads.split(",") if count] or ([1] if quick else [1, 0])
    kernel, rows = "attention_backward" if backward else KERNEL, "quick" if quick else "full"
    raise SystemExit(bench_command(kernel, [rows], dtypes, [], counts, json_path, plot_path))


if __name__ == "__main__":
    main()
