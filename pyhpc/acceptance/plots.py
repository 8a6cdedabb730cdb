"""The pictures of a report, as SVG text: roofline, distributions with their limits, all-reduce curves.

Each function takes a `Report` and draws what is in it; one that has nothing to draw returns "". No verdict is computed.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from pyhpc.acceptance.report import Report
from pyhpc.measure.measurement import Measurement
from pyhpc.measure.statistics import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1b2733", "#6b7886", "#e3e8ed"
OUTCOME_COLORS = {
    "pass": "#1f7a4d",
    "fail": "#b3261e",
    "inconclusive": "#a15c00",
    "error": "#b3261e",
    "skip": "#6b7886",
}
SERIES_COLORS = ("#2456a6", "#c2571a", "#1f7a4d", "#7a3e9d", "#8a6d00", "#0b7a86", "#a3315f", "#4a5560")
SCALES = {"flop/s": (1e-9, "GFLOP/s"), "B/s": (1e-9, "GB/s"), "s": (1e6, "µs")}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH = 8.6  # inches


def _figure(height: float, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False, **options)[:, 0]


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _styled(draw: Any, report: Report) -> str:
    import matplotlib

    # A fixed salt and no date: the same report gives the same bytes.
    style: Any = _STYLE | {"svg.hashsalt": report.plan.suite_digest or "pyhpc"}
    with matplotlib.rc_context(style):
        result: str = draw(report)
    return result


def _good(measurement: Measurement, metric: str) -> tuple[float, ...]:
    series = measurement.metrics.get(metric)
    return series.values if series is not None and measurement.error is None else ()


def roofline(report: Report) -> str:
    """Every compute result against the measured roofs: rate over arithmetic intensity, both logarithmic."""
    return _styled(_roofline, report)


def _roofline(report: Report) -> str:
    peaks, bandwidth = _roofs(report)
    points = [
        (m.flops / m.bytes, median(rates) * 1e-9, m)
        for m in report.measurements
        if m.kernel not in ("peak", "memory", "allreduce") and m.bytes and (rates := _good(m, "flops_per_second"))
    ]
    if not peaks or not bandwidth or not points:
        return ""
    figure, (axes,) = _figure(4.3)
    left, right = min(point[0] for point in points) / 30, max(point[0] for point in points) * 4
    top = max(peaks.values())
    axes.plot([left, top / bandwidth], [left * bandwidth, top], color=INK, linewidth=1.4)
    beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
    axes.annotate(f"DRAM {bandwidth:.0f} GB/s", (left, left * bandwidth), xytext=(10, 2), **beside)
    colors = dict(zip(sorted(peaks, key=lambda dtype: -peaks[dtype]), SERIES_COLORS, strict=False))
    names: list[tuple[float, str, str]] = []  # where, what and in which color to write; roofs that touch share a name
    for dtype, color in colors.items():
        axes.plot([max(left, peaks[dtype] / bandwidth), right], [peaks[dtype]] * 2, color=color, linewidth=1.4)
        told = f"{dtype} {peaks[dtype]:.0f}"
        if names and names[-1][0] < 1.08 * peaks[dtype]:
            names[-1] = (names[-1][0], f"{names[-1][1]}, {told}", INK)
        else:
            names.append((peaks[dtype], told, color))
    for rate, told, color in names:
        axes.annotate(told, (right, rate), xytext=(3, -2), color=color, **beside)
    markers = dict(zip(sorted({m.kernel for _, _, m in points}), "os^Dv", strict=False))
    for intensity, rate, m in points:
        color = colors.get(str(m.problem.get("dtype")), INK)
        axes.plot(
            intensity, rate, markers.get(m.kernel, "o"), color=color, markersize=6.5, alpha=0.8, markeredgewidth=0
        )
    for kernel, marker in markers.items():
        axes.plot([], [], marker, color=MUTED, label=kernel)
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    axes.set(xlabel="arithmetic intensity (operations per byte)", ylabel="10⁹ operations/s")
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def _roofs(report: Report) -> tuple[dict[str, float], float]:
    """The highest measured multiply-add rate of each dtype (10⁹/s) and DRAM bandwidth (GB/s)."""
    peaks: dict[str, float] = {}
    bandwidth = 0.0
    for m in report.measurements:
        if m.kernel == "peak" and (rates := _good(m, "flops_per_second")):
            dtype = str(m.problem.get("dtype"))
            peaks[dtype] = max(peaks.get(dtype, 0.0), median(rates) * 1e-9)
        if m.kernel == "memory" and m.problem.get("level") == "DRAM" and (rates := _good(m, "bytes_per_second")):
            bandwidth = max(bandwidth, median(rates) * 1e-9)
    return peaks, bandwidth


@dataclass(frozen=True)
class _Row:
    """One line of a distribution plot, in the unit of its axis."""

    label: str
    unit: str
    samples: list[float]
    value: float
    low: float | None
    high: float | None
    bounds: tuple[tuple[float, str], ...]  # limits with their marker
    color: str


def distributions(report: Report, step: str) -> str:
    """The raw samples of each case of one step, the interval of the judged statistic, and the limits."""
    return _styled(lambda r: _distributions(r, step), report)


def _distributions(report: Report, step: str) -> str:
    rows = _judged_rows(report, step) or _plain_rows(report, step)
    if not rows:
        return ""
    units = list(dict.fromkeys(row.unit for row in rows))
    counts = [sum(row.unit == unit for row in rows) for unit in units]
    height = sum(0.55 + 0.34 * count for count in counts)
    figure, panels = _figure(height, len(units), gridspec_kw={"height_ratios": [1 + count for count in counts]})
    for axes, unit in zip(panels, units, strict=True):
        _panel(axes, unit, [row for row in rows if row.unit == unit])
    return _svg(figure)


def _judged_rows(report: Report, step: str) -> list[_Row]:
    """A row for each verdict on a limit; every sample is brought to the limit's unit."""
    rows = []
    several = len({v.subject.rank for v in report.verdicts if v.step == step and v.subject is not None}) > 1
    for verdict in report.verdicts:
        limit, subject = verdict.limit, verdict.subject
        if verdict.step != step or limit is None or subject is None or verdict.value is None:
            continue
        found = [m for m in report.measurements if (m.step, m.case) == (step, verdict.case)]
        own = [m for m in found if m.ranks > 1 or m.subject.rank == subject.rank]
        values = [value for m in own for value in _good(m, limit.metric)]
        raw = interval(values, limit.statistic, limit.confidence).value if values else 0.0
        if not raw:
            continue
        bounds = ((limit.at_least, ">"), (limit.at_most, "<"))
        unit = "fraction of the measured ceiling" if limit.of == "ceiling" else f"{limit.metric} in {limit.unit}"
        rows.append(
            _Row(
                label=verdict.case + (f" · rank {subject.rank}" if several and own[0].ranks == 1 else ""),
                unit=unit,
                samples=[value * verdict.value / raw for value in values],
                value=verdict.value,
                low=verdict.low,
                high=verdict.high,
                bounds=tuple((bound, marker) for bound, marker in bounds if bound is not None),
                color=OUTCOME_COLORS[verdict.outcome],
            )
        )
    return rows


def _plain_rows(report: Report, step: str) -> list[_Row]:
    """A row for each measurement of a step without limits: the ceilings."""
    rows = []
    for m in report.measurements:
        metric = "bytes_per_second" if m.kernel == "memory" else "flops_per_second"
        values = _good(m, metric) if m.step == step else ()
        if values:
            scale, unit = SCALES[m.metrics[metric].unit]
            found = interval(values)
            low, high = (None if side is None else side * scale for side in (found.low, found.high))
            scaled = [value * scale for value in values]
            rows.append(_Row(m.case, unit, scaled, found.value * scale, low, high, (), SERIES_COLORS[0]))
    return rows


def _panel(axes: Axes, unit: str, rows: list[_Row]) -> None:
    """Rows of one unit under each other: samples as dots, the interval as a bar, the limits as ticks."""
    shown = [value for row in rows for value in (row.value, *(bound for bound, _ in row.bounds))]
    for number, row in enumerate(rows):
        dots = row.samples[:: max(1, len(row.samples) // 400)]
        heights = [number + 0.22 * (((index * 7919) % 101) / 50 - 1) for index in range(len(dots))]
        axes.plot(dots, heights, ".", color=MUTED, markersize=2.5, alpha=0.45, markeredgewidth=0)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [number] * 2, color=row.color, linewidth=4, solid_capstyle="butt", alpha=0.9)
        axes.plot([row.value], [number], "|", color=row.color, markersize=13, markeredgewidth=2)
        for bound, marker in row.bounds:
            axes.plot([bound] * 2, [number - 0.36, number + 0.36], color=INK, linewidth=1.1)
            axes.plot([bound], [number - 0.36], marker, color=INK, markersize=3.5)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=unit)
    if min(shown) > 0 and max(shown) > 50 * min(shown):
        axes.set_xscale("log")
    else:
        # A few stray samples must not squeeze the rest: the view ends beyond every value, interval and limit.
        axes.set_xlim(0, 1.15 * max(*shown, *(row.high or 0.0 for row in rows)))
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x", color=GRID, linewidth=0.7)


def allreduce_curves(report: Report) -> str:
    """Bus bandwidth (algorithm bandwidth, for one rank) of each all-reduce algorithm over the message size."""
    return _styled(_allreduce_curves, report)


def _allreduce_curves(report: Report) -> str:
    curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for m in report.measurements:
        rates = _good(m, "busbw") or _good(m, "algbw")
        if m.kernel == "allreduce" and rates:
            message_bytes = round(_good(m, "algbw")[0] * _good(m, "seconds")[0])
            curves[f"{m.variant}, {m.ranks} ranks"][message_bytes].append(median(rates) * 1e-9)
    if not curves:
        return ""
    figure, (axes,) = _figure(3.4)
    for index, (name, curve) in enumerate(sorted(curves.items())):
        sizes = sorted(curve)
        color = SERIES_COLORS[index % len(SERIES_COLORS)]
        rates = tuple(median(curve[size]) for size in sizes)
        axes.plot(sizes, rates, "o-", markersize=4, linewidth=1.4, color=color, label=name)
    axes.set(xlabel="message size (bytes per rank)", ylabel="bus bandwidth (GB/s)", yscale="log")
    axes.set_xscale("log", base=2)
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.legend(frameon=False)
    return _svg(figure)
