"""report.json: the whole report as one JSON object, for programs. `schema_version` says how to read it.

Everything is in it (plan, raw samples, verdicts), so `Report.model_validate_json` gives the same report back.
"""

from __future__ import annotations

from pyhpc.acceptance.formats.format import Format
from pyhpc.acceptance.report import Report


def render(report: Report) -> str:
    """The report as JSON."""
    return report.model_dump_json(indent=1) + "\n"


FORMAT = Format("json", "report.json", render)
