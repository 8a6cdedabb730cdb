"""A comparison as a picture: one panel a number of threads, one bar a contestant and problem, whiskers the interval.

A black tick on the bars' row is the ceiling measured in the same rounds. The ending of the path chooses the format.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyhpc.bench.comparison import Comparison, Row
from pyhpc.bench.render import rate_text, rate_unit
from pyhpc.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette: told apart by the colour-blind and in print. The first is ours.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_BAR = 0.8  # of a problem's slot that bars fill
_FORMATS = (".png", ".svg", ".pdf")


def write_plot(comparison: Comparison, path: str | Path) -> None:
    """Draw `comparison` into `path`.

    Raises:
        ConfigError: the ending is not .png, .svg or .pdf, or the file cannot be written.
    """
    check_path(path)
    path = Path(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = comparison.groups()
    threads = list(dict.fromkeys(count for count, _ in groups))
    names = list(dict.fromkeys(row.contestant for row in comparison.rows if row.kind != "ceiling"))
    slots = max(sum(count == other for other, _ in groups) for count in threads)
    height = 1.9 + max(1.2, slots * (0.26 * len(names) + 0.22))
    figure = Figure(figsize=(1.0 + 5.2 * len(threads), height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, threads, strict=True):
        _panel(axes, {label: rows for (other, label), rows in groups.items() if other == count}, names, count)
    machine = comparison.machine
    figure.suptitle(f"{comparison.kernel} on {machine.processor}", fontsize=12, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(3 * len(threads), len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    try:
        figure.savefig(path, dpi=160, metadata={} if path.suffix == ".png" else {"Creator": "pyhpc"})
    except OSError as error:
        raise ConfigError(f"the plot cannot be written: {error}") from error


def check_path(path: str | Path) -> None:
    """Refuse a path that cannot hold a plot, before the measuring and not after it.

    Raises:
        ConfigError: the ending is unknown, or the folder does not exist.
    """
    if Path(path).suffix not in _FORMATS:
        raise ConfigError(f"a plot is written to a file that ends in {', '.join(_FORMATS)}, not to {path}")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"the plot cannot be written: there is no folder {Path(path).absolute().parent}")


def _panel(axes: Axes, groups: dict[str, list[Row]], names: list[str], threads: int) -> None:
    thickness = _BAR / len(names)
    for slot, rows in enumerate(groups.values()):
        for row in rows:
            if row.kind != "ceiling":
                place = slot - _BAR / 2 + (names.index(row.contestant) + 0.5) * thickness
                _bar(axes, row, place, thickness, _COLOURS[names.index(row.contestant) % len(_COLOURS)])
        ceiling = next((row for row in rows if row.kind == "ceiling" and row.kernel == "peak" and row.rate), None)
        if ceiling is not None and ceiling.rate is not None:
            axes.plot([ceiling.rate * 1e-9] * 2, [slot - _BAR / 2, slot + _BAR / 2], color="black", lw=1.8)
    # The legend: one entry a contestant, and the tick.
    for name in names:
        axes.barh([0], [0], color=_COLOURS[names.index(name) % len(_COLOURS)], label=name)
    if any(row.kind == "ceiling" for rows in groups.values() for row in rows):
        axes.plot([], [], color="black", lw=1.8, label="peak, same rounds")
    axes.set_yticks(range(len(groups)), list(groups), fontsize=9)
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_xlabel(rate_unit([row for rows in groups.values() for row in rows]))
    axes.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)


def _bar(axes: Axes, row: Row, place: float, thickness: float, colour: str) -> None:
    if row.rate is None:
        axes.text(0, place, f" {row.contestant}: no figure", va="center", fontsize=7, color="#b00000")
        return
    axes.barh([place], [row.rate * 1e-9], height=thickness * 0.92, color=colour)
    bounds, edge = row.rate_bounds, row.rate
    if bounds is not None:
        axes.plot([bound * 1e-9 for bound in bounds], [place] * 2, color="#222222", lw=1.1, solid_capstyle="butt")
        edge = max(edge, bounds[1])
    axes.text(edge * 1e-9, place, f" {rate_text(row.rate)}", va="center", fontsize=7.5, color="#333333")
