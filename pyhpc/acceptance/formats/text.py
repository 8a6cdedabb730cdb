"""report.txt, and what is printed at the end of a run: what is wrong first, then one line a case, then the answer."""

from __future__ import annotations

from pyhpc.acceptance.collectives import HEADINGS
from pyhpc.acceptance.config import METRIC_UNITS
from pyhpc.acceptance.formats.format import Format
from pyhpc.acceptance.judge import Verdict
from pyhpc.acceptance.report import Report

_MANY = 20  # sentences and rows of one kind; the rest is in report.json


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _bounds(verdict: Verdict) -> str:
    limit = verdict.limit
    if limit is None:
        return ""
    parts = [f"≥ {limit.at_least:g}"] if limit.at_least is not None else []
    parts += [f"≤ {limit.at_most:g}"] if limit.at_most is not None else []
    return " ".join(parts)


def _row(verdict: Verdict) -> tuple[str, ...]:
    """outcome, case, subject, statistic, value with interval, bounds, unit, samples."""
    limit = verdict.limit
    outcome = verdict.outcome + ("" if verdict.required else " (optional)")
    name = f"{verdict.step}: {verdict.case}"
    who = "" if verdict.subject is None else f"{verdict.subject.host}:{verdict.subject.rank}"
    if limit is None or verdict.value is None:
        return (outcome, name, who, "correct" if limit is None else limit.metric, "", _bounds(verdict), "", "")
    value = f"{_number(verdict.value)} [{_number(verdict.low)}, {_number(verdict.high)}]"
    unit = "of ceiling" if limit.of else limit.unit
    return (
        outcome,
        name,
        who,
        f"{limit.statistic} {limit.metric}",
        value,
        _bounds(verdict),
        unit,
        str(verdict.samples),
    )


_HEADER = ("outcome", "case", "host:rank", "what", "value [interval]", "limit", "unit", "samples")


def _table(verdicts: list[Verdict]) -> list[str]:
    """Aligned columns: every limit, and every case that is not complete and right."""
    shown = [verdict for verdict in verdicts if verdict.limit or verdict.outcome != "pass"]
    return _aligned([_HEADER, *(_row(verdict) for verdict in shown[: 10 * _MANY])]) + _more(len(shown), 10 * _MANY)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _collectives(report: Report) -> list[str]:
    """Each all-reduce: bandwidths, share of the memory-traffic bound, how far its cores are from each other."""
    rows = [row.cells for row in report.collectives[: 2 * _MANY]]
    more = _more(len(report.collectives), 2 * _MANY)
    return ["", "All-reduce (median; bound: a copy by all ranks):", *_aligned([HEADINGS, *rows]), *more] if rows else []


def _more(count: int, shown: int) -> list[str]:
    return [f"... and {count - shown} more, in report.json"] if count > shown else []


def _sentences(title: str, sentences: list[str]) -> list[str]:
    if not sentences:
        return []
    unique = list(dict.fromkeys(sentences))
    return ["", title, *(f"  - {sentence}" for sentence in unique[:_MANY]), *_more(len(unique), _MANY)]


def _rates(report: Report) -> list[str]:
    """The median of each measured case without a limit: the ceilings."""
    unlimited = {step.name for step in report.plan.steps if not step.limits}
    units = {
        "flops_per_second": ("GFLOP/s", 1e9),
        "bytes_per_second": ("GB/s", METRIC_UNITS["bytes_per_second"]["GB/s"]),
    }
    lines = []
    for measurement in report.measurements:
        metric = "bytes_per_second" if measurement.kernel == "memory" else "flops_per_second"
        values = sorted(measurement.metrics[metric].values) if metric in measurement.metrics else []
        if measurement.step in unlimited and values and not measurement.error:
            unit, factor = units[metric]
            rate = f"{values[len(values) // 2] / factor:10.4g} {unit}"
            lines.append(f"  {measurement.step:14} {measurement.case:36} {rate:22} {measurement.subject}")
    return (
        ["", "Measured without a limit (median):", *lines[: 2 * _MANY], *_more(len(lines), 2 * _MANY)] if lines else []
    )


def render(report: Report) -> str:
    """The report as plain text."""
    covered, plan = report.coverage, report.plan
    failed = [v.reason for v in report.verdicts if v.outcome == "fail" and v.required]
    unsettled = [v.reason for v in report.verdicts if v.outcome in ("error", "inconclusive", "skip") and v.required]
    optional = [f"{v.outcome}: {v.reason}" for v in report.verdicts if v.outcome != "pass" and not v.required]
    lines = [
        f"pyhpc accept {plan.suite} on {plan.machine.host}: {plan.machine.processor}, {plan.machine.cores} cores, "
        f"{len(plan.machine.gpus)} GPUs; {covered.nodes_measured} of {covered.nodes} nodes, "
        f"{covered.cases_measured} of {covered.cases} cases and {covered.steps_measured} of {covered.steps} steps done",
        *_sentences("Fails:", failed),
        *_sentences("Could not be judged:", list(dict.fromkeys([*unsettled, *covered.missing]))),
        *_sentences("Not required:", optional),
        *_sentences("Notes:", list(report.notes)),
        *_rates(report),
        *_collectives(report),
        "",
        *_table(list(report.verdicts)),
        "",
        f"{report.answer}: {report.sentence}",
        f"to reproduce: {report.command}",
        f"everything measured is in {report.run_folder}",
    ]
    return "\n".join(lines) + "\n"


FORMAT = Format("text", "report.txt", render)
