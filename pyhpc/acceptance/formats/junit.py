"""junit.xml: one test case a verdict, for continuous integration.

<failure> fails (with measured value, limit and unit in its attributes' words), <error> could not be judged or is too
uncertain, <skipped> cannot run here. Verdicts that are not required say so and never turn the file red.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from pyhpc.acceptance.formats.format import Format
from pyhpc.acceptance.judge import Verdict
from pyhpc.acceptance.plan import describe
from pyhpc.acceptance.report import Report

_ELEMENTS = {"fail": "failure", "error": "error", "inconclusive": "error", "skip": "skipped"}
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)


def _element(verdict: Verdict) -> str | None:
    """The child element that tells the outcome; None for a pass."""
    if verdict.outcome == "pass":
        return None
    return _ELEMENTS[verdict.outcome] if verdict.required else "skipped"


def _add(suite: ElementTree.Element, verdict: Verdict, host: str) -> None:
    what = "complete and right" if verdict.limit is None else describe(verdict.limit)
    name = f"{verdict.case}: {what}" + (f" [{verdict.subject}]" if verdict.subject else "")
    case = ElementTree.SubElement(
        suite, "testcase", classname=_clean(f"{host}.{verdict.step}"), name=_clean(name), time="0"
    )
    kind = _element(verdict)
    if kind is not None:
        optional = "" if verdict.required else f" ({verdict.outcome}, not required)"
        child = ElementTree.SubElement(case, kind, message=_clean(verdict.reason + optional), type=verdict.outcome)
        child.text = _clean(f"limit from: {verdict.limit.source}") if verdict.limit else None


def render(report: Report) -> str:
    """The report as JUnit XML; one <testsuite> a step, and one for the answer itself."""
    root = ElementTree.Element("testsuites", name=_clean(f"pyhpc {report.plan.suite}"))
    host = report.plan.machine.host
    for step in report.plan.steps:
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(step.name))
        for verdict in report.verdicts:
            if verdict.step == step.name:
                _add(suite, verdict, host)
    suite = ElementTree.SubElement(root, "testsuite", name="answer")
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(host), name="ACCEPTED", time="0")
    if report.answer != "ACCEPTED":
        kind = "failure" if report.answer == "REJECTED" else "error"
        ElementTree.SubElement(case, kind, message=_clean(f"{report.answer}: {report.sentence}"), type=report.answer)
    for element in (*root.findall("testsuite"), root):
        for attribute, tag in (
            ("tests", "testcase"),
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            element.set(attribute, str(sum(1 for _ in element.iter(tag))))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


FORMAT = Format("junit", "junit.xml", render)
