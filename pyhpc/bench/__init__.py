"""`pyhpc bench`: own variants, peers and ceilings side by side. One stage a file:

shapes (text → problems) → contest (processes, rounds) → comparison (figures) → render, plot (formats).
"""

from __future__ import annotations

from collections.abc import Sequence

from pyhpc.bench.comparison import Comparison
from pyhpc.bench.contest import compare
from pyhpc.errors import ConfigError

__all__ = ["Comparison", "bench_command", "compare"]

_DETAILED = 8  # groups beyond which the table of all is printed alone


def bench_command(
    kernel: str,
    shapes: Sequence[str],
    dtypes: Sequence[str],
    vs: Sequence[str],
    threads: Sequence[int] = (1, 0),
    json_path: str | None = None,
    plot_path: str | None = None,
) -> int:
    """Compare the best own variant with `vs`, print the table, write JSON and plot where asked.

    Args:
        kernel: "matmul", "attention" …
        shapes: as in `pyhpc.bench.shapes`; none: the kernel's defaults.
        dtypes: names; none: float32, or all with the shapes "full".
        vs: peers ("numpy", "torch") and own variants ("avx2", "numba"); none: every peer that takes one of the
            problems.
        threads: each number of threads to compare with; 0: all usable cores.
        json_path, plot_path: files to write (.json; .png, .svg, .pdf).

    Returns:
        The exit status: 0 if the own variant was measured and right everywhere, 1 otherwise.

    Raises:
        ConfigError: a name, shape or path that cannot be used.
    """
    from rich.console import Console

    from pyhpc.bench.plot import check_path, write_plot
    from pyhpc.bench.render import print_comparison, print_summary, write_json
    from pyhpc.bench.shapes import problems
    from pyhpc.kernels.kernel import kernels

    if kernel == "allreduce":
        raise ConfigError(
            "allreduce is compared across ranks, not across processes of one: mpiexec -n 2 pyhpc bench allreduce"
        )
    if plot_path is not None:
        check_path(plot_path)
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=120)  # a file or a pipe has no width of its own
    wanted = problems(kernel, shapes, dtypes)
    peers = kernels()[kernel].peers()
    rivals = vs or [peer.name for peer in peers if any(peer.reject(problem) is None for problem in wanted)]
    counts = list(dict.fromkeys(threads))
    with console.status("starting") as status:
        found = compare(kernel, wanted, ["best", *rivals], threads=counts, progress=status.update)
    if len(found.groups()) <= _DETAILED:
        print_comparison(found, console)
    if len(found.groups()) > 1:
        print_summary(found, Console(width=160) if console.width < 160 else console)
    if json_path is not None:
        write_json(found, json_path)
    if plot_path is not None:
        write_plot(found, plot_path)
    return 1 if any(row.kind == "ours" and row.error for row in found.rows) else 0
