"""A comparison as a table (rich) and as JSON. Formats only: every figure comes from `comparison`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyhpc.bench.comparison import Comparison, Row
from pyhpc.errors import ConfigError
from pyhpc.measure.statistics import Interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_QUIET = 0.15  # of the cores: above it medians move by 5 to 15 %
_STYLES = {"ours": "bold", "peer": "", "ceiling": "dim"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """One table for each problem and number of threads, then how it was measured."""
    machine = comparison.machine
    console.print(f"[bold]{comparison.kernel}[/] on {machine.host}: {machine.processor}, {machine.cores} cores usable")
    for (threads, label), rows in comparison.groups().items():
        console.print(_table(f"{label}, {threads} thread{'s' if threads > 1 else ''}", rows))
    console.print(
        rf"[dim]Median of {comparison.rounds} alternating rounds, a process each, every timed result verified."
        r" \[low, high]: distribution-free 95 % interval of the median, from 6 rounds on."
    )
    others = max((row.other_cpu_fraction or 0.0 for row in comparison.rows), default=0.0)
    if others > _QUIET:
        console.print(
            f"[yellow]Disturbed: other processes took up to {others:.0%} of these cores while a contestant was sampled."
            " Repeat on a quiet machine before believing a figure."
        )


def print_summary(comparison: Comparison, console: Console) -> None:
    """One line for each problem and number of threads: every contestant's rate, ours beside the best peer and limit.

    Then why a contestant has no figure, once for each reason.
    """
    from rich import box
    from rich.table import Table

    groups = comparison.groups()
    names = list(dict.fromkeys(row.contestant for row in comparison.rows if row.kind == "peer"))
    others = list(dict.fromkeys(row.contestant for row in comparison.rows if row.kind == "ours"))
    table = Table(title=f"{comparison.kernel}: rates in {rate_unit(list(comparison.rows))}", title_justify="left",
                  box=box.SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    for header in ("problem", "threads", "line ns", *others, "% of limit", "× best peer", *names):
        table.add_column(header, justify="left" if header == "problem" else "right")
    for (threads, label), rows in groups.items():
        found = {row.contestant: row for row in rows if row.kind != "ceiling"}
        first = rows[0]
        latency = first.line_latency_seconds
        table.add_row(
            label,
            str(threads),
            "" if latency is None else f"{latency * 1e9:.0f}",
            *(_rate_cell(found.get(name)) for name in others),
            "" if first.of_limit is None else f"{first.of_limit.value:.0%} {first.limit.partition(' ')[0]}",
            "" if first.speedup is None else f"{first.speedup.value:.2f} {first.best_peer}",
            *(_rate_cell(found.get(name)) for name in names),
        )
    console.print(table)
    for reason in dict.fromkeys(f"{row.contestant}: {row.error}" for row in comparison.rows if row.error):
        console.print(f"[dim]{_escape(reason)}")


def _rate_cell(row: Row | None) -> str:
    return "" if row is None or row.rate is None else rate_text(row.rate)


def write_json(comparison: Comparison, path: str | Path) -> None:
    """The whole comparison, raw samples included; `Comparison.model_validate_json` reads it back.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        Path(path).write_text(comparison.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"the comparison cannot be written: {error}") from error


def _table(title: str, rows: list[Row]) -> Table:
    from rich import box
    from rich.table import Table

    placed = any(row.line_latency_seconds is not None for row in rows)
    peer = next((row.best_peer for row in rows if row.best_peer), "")
    limit = next((row.limit for row in rows if row.limit), "")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contestant")
    for header in (rate_unit(rows), "95 % interval", "time us", f"% of {limit or 'limit'}", f"× {peer or 'peer'}"):
        table.add_column(header, justify="right")
    if placed:
        table.add_column("line ns", justify="right")
    table.add_column("")
    for row in rows:
        cells = [row.contestant if row.kind != "ceiling" else f"{row.contestant} {row.label}", *_figures(row)]
        latency = row.line_latency_seconds
        cells += ["" if latency is None else f"{latency * 1e9:.0f}"] if placed else []
        table.add_row(*cells, f"[red]{_escape(row.error)}[/]" if row.error else row.library, style=_STYLES[row.kind])
    return table


def _figures(row: Row) -> list[str]:
    if row.rate is None or row.seconds is None:
        return ["–"] * 5
    bounds = row.rate_bounds
    unit = " GB/s" if row.kind == "ceiling" and row.kernel == "memory" else ""
    return [
        rate_text(row.rate) + unit,
        f"[{rate_text(bounds[0])}, {rate_text(bounds[1])}]".replace("[", r"\[") if bounds else "–",
        f"{row.seconds.value * 1e6:.4g}",
        _interval_text(row.of_limit, 100, ".1f"),
        _interval_text(row.speedup, 1, ".2f") if row.kind != "ceiling" else "",
    ]


def rate_unit(rows: list[Row]) -> str:
    """Of the contestants' rates."""
    return "GB/s" if any(row.kernel == "memory" for row in rows if row.kind != "ceiling") else "GFLOP/s"


def rate_text(rate: float) -> str:
    """In 1e9 a second: three significant digits, or the whole number."""
    return f"{rate * 1e-9:#.3g}" if rate < 99.95e9 else f"{rate * 1e-9:.0f}"


def _interval_text(found: Interval | None, factor: float, form: str) -> str:
    if found is None:
        return ""
    text = f"{found.value * factor:{form}}"
    if found.low is None or found.high is None:
        return text
    return rf"{text} \[{found.low * factor:{form}}, {found.high * factor:{form}}]"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
