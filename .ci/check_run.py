"""check_run.py STATUS FOLDER: did `pyhpc accept` end with a verdict, complete, and with every result proved right?

Speed verdicts do not count here: CI machines are shared.
"""

import json
import sys
from pathlib import Path

status, folder = int(sys.argv[1]), Path(sys.argv[2])
report = json.loads((folder / "report.json").read_text())
for name in ("report.html", "junit.xml", "records.jsonl", "plan.json"):
    assert (folder / name).stat().st_size > 0, f"{name} is missing or empty"
assert status == {"ACCEPTED": 0, "REJECTED": 1, "INCOMPLETE": 3}[report["answer"]], (status, report["answer"])
coverage = report["coverage"]
assert coverage["cases"] > 0, "nothing was planned"
assert coverage["cases"] == coverage["cases_measured"], coverage["missing"]
required = [verdict for verdict in report["verdicts"] if verdict["required"]]
unsound = [v["reason"] for v in required if v["outcome"] in ("error", "skip")]
wrong = [v["reason"] for v in required if v["limit"] is None and v["outcome"] != "pass"]
assert not unsound + wrong, unsound + wrong
print(f"{report['answer']}: {report['sentence']}")
