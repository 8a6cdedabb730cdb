"""Stage 4, judge: plan + records → verdicts. Pure: no numpy, no MPI, no clock, no files."""

from __future__ import annotations

from typing import Literal

from pyhpc.acceptance.config import Limit
from pyhpc.measure.measurement import Record, Subject

Outcome = Literal["pass", "fail", "inconclusive", "error", "skip"]


class Verdict(Record):
    """What is said of one limit (or of the correctness) of one case on one subject."""

    step: str
    case: str
    subject: Subject | None  # None: nobody measured it
    limit: Limit | None  # None: the verdict on correctness and completeness of the case itself
    outcome: Outcome
    reason: str  # one sentence that names who, what, how much of how much
    required: bool = True
    samples: int = 0
    value: float | None = None  # the statistic, in the limit's unit
    low: float | None = None  # its confidence interval, in the limit's unit
    high: float | None = None
    confidence: float | None = None
