"""The pictures of a report, as SVG text: roofline, distributions with their limits, all-reduce curves.

Each function takes a `Report` and draws what is in it; one that has nothing to draw returns "". No verdict is computed here.
"""

from __future__ import annotations

import io
from collections import defaultdict
from statistics import median
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyhpc.acceptance.judge import Verdict
from pyhpc.acceptance.report import Report
from pyhpc.measure.measurement import Measurement

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


def _figure(width: float, height: float, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False, **options)[:, 0]


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    # A fixed salt and no date: the same report gives the same bytes.
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _styled(draw: Any, report: Report) -> str:
    import matplotlib

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": report.plan.suite_digest or "pyhpc"}):
        result: str = draw(report)
    return result


def _good(measurement: Measurement, metric: str) -> tuple[float, ...]:
    series = measurement.metrics.get(metric)
    return series.values if series is not None and measurement.error is None else ()


def _ceilings(report: Report, kernel: str, metric: str) -> dict[str, float]:
    """Case label → median of the measured limits of one kind (first subject)."""
    found: dict[str, float] = {}
    for m in report.measurements:
        values = _good(m, metric)
        if m.kernel == kernel and values:
            found.setdefault(m.case, median(values))
    return found


def roofline(report: Report) -> str:
    """Every compute result against the measured roofs: rate over arithmetic intensity, both logarithmic."""
    return _styled(_roofline, report)


def _roofline(report: Report) -> str:
    peaks = _ceilings(report, "peak", "flops_per_second")
    bandwidths = {
        case: rate for case, rate in _ceilings(report, "memory", "bytes_per_second").items() if "DRAM" in case
    }
    points = [
        m
        for m in report.measurements
        if m.kernel not in ("peak", "memory") and m.flops and m.bytes and _good(m, "flops_per_second")
    ]
    if not peaks or not bandwidths or not points:
        return ""
    bandwidth = max(bandwidths.values())
    figure, (axes,) = _figure(8.6, 4.3)
    intensities = [m.flops / m.bytes for m in points]
    left, right = min(intensities) / 30, max(intensities) * 4
    top = max(peaks.values())
    for index, (case, peak) in enumerate(sorted(peaks.items(), key=lambda item: -item[1])):
        color = SERIES_COLORS[index % len(SERIES_COLORS)]
        axes.plot([max(left, peak / bandwidth), right], [peak * 1e-9] * 2, color=color, linewidth=1.4)
        axes.annotate(
            f"{case.split()[0]} {peak * 1e-9:.0f}",
            (right, peak * 1e-9),
            xytext=(3, -2),
            textcoords="offset points",
            color=color,
            fontsize=8,
        )
    axes.plot([left, top / bandwidth], [left * bandwidth * 1e-9, top * 1e-9], color=INK, linewidth=1.4)
    axes.annotate(
        f"DRAM {bandwidth * 1e-9:.0f} GB/s",
        (left, left * bandwidth * 1e-9),
        xytext=(10, 2),
        textcoords="offset points",
        fontsize=8,
    )
    markers = {kernel: marker for kernel, marker in zip(sorted({m.kernel for m in points}), "os^Dv", strict=False)}
    seen: set[str] = set()
    for m, intensity in zip(points, intensities, strict=True):
        label = m.kernel if m.kernel not in seen else None
        seen.add(m.kernel)
        axes.plot(
            intensity,
            median(_good(m, "flops_per_second")) * 1e-9,
            markers.get(m.kernel, "o"),
            color=INK,
            markersize=6,
            alpha=0.75,
            markeredgewidth=0,
            label=label,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(left, right),
        xlabel="arithmetic intensity (operations per byte)",
        ylabel="10⁹ operations/s",
    )
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def distributions(report: Report, step: str) -> str:
    """The raw samples of each case of one step, its interval, and the limits they are judged by."""
    return _styled(lambda r: _distributions(r, step), report)


def _rows(report: Report, step: str) -> list[tuple[Measurement, Verdict]]:
    """The judged (measurement, verdict) pairs of a step, one per case, subject and metric."""
    pooled: dict[tuple[str, int], Measurement] = {}
    for m in report.measurements:
        if m.step == step and m.error is None:
            pooled[(m.case, m.key[2])] = m
    rows: dict[tuple[str, int, str], tuple[Measurement, Verdict]] = {}
    for verdict in report.verdicts:
        if (
            verdict.step == step
            and verdict.limit is not None
            and verdict.subject is not None
            and verdict.value is not None
        ):
            for (case, who), m in pooled.items():
                if case == verdict.case and who in (-1, verdict.subject.rank) and verdict.limit.metric in m.metrics:
                    rows.setdefault((case, who, verdict.limit.metric), (m, verdict))
    return list(rows.values())


def _distributions(report: Report, step: str) -> str:
    rows = _rows(report, step)
    if not rows:
        return ""
    ranks = {m.subject.rank for m, _ in rows}
    figure, (axes,) = _figure(8.6, 0.55 + 0.34 * len(rows))
    for row, (m, verdict) in enumerate(rows):
        _strip(axes, row, report, m, verdict)
    axes.set_yticks(
        range(len(rows)),
        [m.case + (f" · rank {m.subject.rank}" if len(ranks) > 1 and m.ranks == 1 else "") for m, _ in rows],
    )
    axes.set(ylim=(len(rows) - 0.4, -0.6))
    units = {_axis_unit(verdict) for _, verdict in rows}
    axes.set_xlabel(" / ".join(sorted(units)))
    low, high = axes.get_xlim()
    axes.set_xlim(min(0.0, low), high * 1.02)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x", color=GRID, linewidth=0.7)
    return _svg(figure)


def _axis_unit(verdict: Verdict) -> str:
    limit = verdict.limit
    assert limit is not None
    return "fraction of the measured ceiling" if limit.of == "ceiling" else f"{limit.metric} in {limit.unit}"


def _strip(axes: Axes, row: int, report: Report, measurement: Measurement, verdict: Verdict) -> None:
    """One case: samples as dots in the verdict's unit, the interval as a bar, the limits as ticks."""
    limit = verdict.limit
    assert limit is not None and verdict.value is not None
    values = [value for m in report.measurements if m.key == measurement.key for value in _good(m, limit.metric)]
    # The verdict's value is the statistic in the limit's unit: its ratio to the raw median is the scale of every sample.
    middle = median(values)
    scale = verdict.value / middle if limit.statistic == "median" and middle else 1.0
    color = OUTCOME_COLORS[verdict.outcome]
    shown = values[:: max(1, len(values) // 400)]
    heights = [row + 0.22 * (((index * 7919) % 101) / 50 - 1) for index in range(len(shown))]
    axes.plot(
        [value * scale for value in shown], heights, ".", color=MUTED, markersize=2.5, alpha=0.45, markeredgewidth=0
    )
    if verdict.low is not None and verdict.high is not None:
        axes.plot([verdict.low, verdict.high], [row, row], color=color, linewidth=4, solid_capstyle="butt", alpha=0.9)
    axes.plot([verdict.value], [row], "|", color=color, markersize=13, markeredgewidth=2)
    for bound, marker in ((limit.at_least, ">"), (limit.at_most, "<")):
        if bound is not None:
            axes.plot([bound, bound], [row - 0.36, row + 0.36], color=INK, linewidth=1.1)
            axes.plot([bound], [row - 0.36], marker, color=INK, markersize=3.5)


def allreduce_curves(report: Report) -> str:
    """Bus bandwidth (time, for one rank) of each all-reduce algorithm over the message size."""
    return _styled(_allreduce_curves, report)


def _allreduce_curves(report: Report) -> str:
    curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for m in report.measurements:
        metric = "busbw" if "busbw" in m.metrics else "algbw"
        if m.kernel == "allreduce" and _good(m, metric):
            curves[f"{m.variant}, {m.ranks} ranks"][m.bytes].append(median(_good(m, metric)) * 1e-9)
    if not curves:
        return ""
    figure, (axes,) = _figure(8.6, 3.4)
    for index, (name, curve) in enumerate(sorted(curves.items())):
        sizes = sorted(curve)
        axes.plot(
            sizes,
            [median(curve[size]) for size in sizes],
            "o-",
            markersize=4,
            linewidth=1.4,
            color=SERIES_COLORS[index % len(SERIES_COLORS)],
            label=name,
        )
    axes.set(xlabel="message size (bytes per rank)", ylabel="bus bandwidth (GB/s)", yscale="log")
    axes.set_xscale("log", base=2)
    axes.grid(True, which="major", color=GRID, linewidth=0.7)
    axes.legend(frameon=False)
    return _svg(figure)
