"""report.html: one self-contained file (no script, no network, no external font) that prints well to PDF.

The layout is report.html.j2 beside this file; the pictures are pyhpc.acceptance.plots. Everything a suite or a machine
says is escaped.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from pyhpc.acceptance.collectives import HEADINGS
from pyhpc.acceptance.formats.format import Format
from pyhpc.acceptance.judge import Verdict
from pyhpc.acceptance.report import Report

_TONES = {"ACCEPTED": "pass", "REJECTED": "fail", "INCOMPLETE": "inconclusive"}
_OUTCOMES = ("pass", "fail", "inconclusive", "error", "skip")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _bytes(value: float) -> str:
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 1 << shift:
            return f"{value / (1 << shift):.4g} {unit}"
    return f"{value:g} B"


def _bound(verdict: Verdict) -> str:
    """The limit as a reader says it: "≥ 0.5, ≤ 1.05 of the ceiling"."""
    limit = verdict.limit
    if limit is None:
        return "complete and every result right"
    parts = [f"{sign} {bound:g}" for sign, bound in (("≥", limit.at_least), ("≤", limit.at_most)) if bound is not None]
    return ", ".join(parts) + (" of the ceiling" if limit.of == "ceiling" else f" {limit.unit}")


def _facts(report: Report) -> list[tuple[str, str]]:
    """The machine as label and text, empty facts left out."""
    machine = report.plan.machine
    caches = ", ".join(f"{name.upper()} {_bytes(size)}" for name, size in machine.cache_bytes.items() if size)
    facts = [
        ("Host", machine.host),
        ("Processor", f"{machine.processor}, {machine.architecture}"),
        ("Cores", f"{machine.cores} usable, {machine.sockets} socket{'s' if machine.sockets != 1 else ''}"),
        ("Caches per core", caches),
        ("Memory", _bytes(machine.memory_bytes)),
        ("Instruction sets", ", ".join(name for name, refusal in machine.targets.items() if not refusal)),
        (
            "GPUs",
            "; ".join(f"{gpu.name} {gpu.uuid}" for gpu in machine.gpus)
            or f"none: {machine.gpu_absence or 'not found'}",
        ),
        ("Network", "; ".join(f"{nic.name} ({nic.kind}, {nic.state})" for nic in machine.nics)),
        ("System", machine.system),
        ("Python", machine.python),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in machine.libraries.items())),
        ("Environment", ", ".join(f"{name}={value}" for name, value in machine.environment.items())),
    ]
    return [(label, text) for label, text in facts if text]


def _conditions(report: Report) -> list[tuple[str, str]]:
    """The range of each condition over the whole run; what the machine does not tell is said to be untold."""
    found: list[tuple[str, str]] = []
    for label, field, scale, unit in (
        ("Clock", "clock_hertz", 1e-9, "GHz"),
        ("Power", "power_watts", 1.0, "W"),
        ("Temperature", "temperature_celsius", 1.0, "°C"),
        ("Load average", "load_average", 1.0, ""),
        ("Cache-line latency", "line_latency_seconds", 1e9, "ns"),
    ):
        values = [value * scale for m in report.measurements for value in getattr(m.conditions, field)]
        found.append(
            (label, f"{min(values):.3g} – {max(values):.3g} {unit}".strip() if values else "the machine does not tell")
        )
    others = [
        m.conditions.other_cpu_fraction for m in report.measurements if m.conditions.other_cpu_fraction is not None
    ]
    if others:
        found.append(("Processor time of others", f"up to {100 * max(others):.0f} %"))
    throttled = sorted({reason for m in report.measurements for reason in m.conditions.throttle_reasons})
    found.append(("Throttling", ", ".join(throttled) or "none seen"))
    return found


def render(report: Report) -> str:
    """The report as one HTML document."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from pyhpc.acceptance import plots

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "bound": _bound, "clock": _clock}
    steps: list[dict[str, Any]] = []
    for step in report.plan.steps:
        verdicts = [verdict for verdict in report.verdicts if verdict.step == step.name]
        steps.append(
            {"step": step, "verdicts": verdicts, "distribution": Markup(plots.distributions(report, step.name))}
        )
    counts: Counter[str] = Counter(verdict.outcome for verdict in report.verdicts)
    return environment.get_template("report.html.j2").render(
        report=report,
        tone=_TONES[report.answer],
        counts=[(outcome, counts[outcome]) for outcome in _OUTCOMES if counts[outcome]],
        problems=[verdict for verdict in report.verdicts if verdict.outcome != "pass"],
        facts=_facts(report),
        conditions=_conditions(report),
        steps=steps,
        roofline=Markup(plots.roofline(report)),
        headings=HEADINGS,
        curves=Markup(plots.allreduce_curves(report)),
    )


FORMAT = Format("html", "report.html", render)
