"""Verdicts: what passes, what fails, what is undecided, and that nothing broken ever passes."""

from __future__ import annotations

import pytest

from pyhpc.acceptance.config import Limit
from pyhpc.acceptance.judge import judge
from pyhpc.measure.measurement import Series, Verification


def verdict(plan, records, step, metric=None, rank=0, unit=None):
    """The verdict on the case of `step` (metric None) or on a limit of it."""
    found = [
        v
        for v in judge(plan, records)
        if v.step == step
        and (v.limit.metric if v.limit else None) == metric
        and (unit is None or (v.limit and v.limit.unit == unit))
        and (v.subject is None or v.subject.rank == rank)
    ]
    assert len(found) == 1, found
    return found[0]


def replace(records, index, **fields):
    """The records with one of them changed."""
    changed = list(records)
    changed[index] = changed[index].model_copy(update=fields)
    return changed


def with_limit(plan, step, **fields):
    """The plan with the limits of a step replaced by one."""
    limit = Limit(**{"source": "test", "metric": "flops_per_second", "unit": "GFLOP/s", **fields})
    steps = [s.model_copy(update={"limits": (limit,)}) if s.name == step else s for s in plan.steps]
    return plan.model_copy(update={"steps": tuple(steps)})


def test_a_complete_run_passes_in_every_verdict(plan, records):
    verdicts = judge(plan, records)
    assert {v.outcome for v in verdicts} == {"pass"}
    # peak: 2 ranks; matmul: 2 ranks × (correctness, 2 limits); all-reduce: one of both, correctness and limit.
    assert len(verdicts) == 2 + 6 + 2


def test_a_relative_limit_is_judged_by_the_ratio_to_the_ceiling(plan, records):
    v = verdict(plan, records, "matmul", "flops_per_second", unit="fraction")
    assert v.value == pytest.approx(0.8, rel=0.01)
    assert v.low < 0.8 < v.high


@pytest.mark.parametrize(("bound", "outcome"), [(1.50, "pass"), (1.60, "inconclusive"), (1.70, "fail")])
def test_only_a_whole_interval_decides_an_at_least_limit(plan, records, bound, outcome):
    limited = with_limit(plan, "matmul", at_least=bound)  # the samples are 1.57 to 1.63 GFLOP/s
    assert verdict(limited, records, "matmul", "flops_per_second").outcome == outcome


@pytest.mark.parametrize(("bound", "outcome"), [(1.70, "pass"), (1.60, "inconclusive"), (1.50, "fail")])
def test_only_a_whole_interval_decides_an_at_most_limit(plan, records, bound, outcome):
    limited = with_limit(plan, "matmul", at_most=bound)
    assert verdict(limited, records, "matmul", "flops_per_second").outcome == outcome


def test_the_limit_itself_is_met_without_slack(plan, make):
    records = [make.record(s, rank, (2e-3,) * 20) for s in plan.steps for rank in s.subjects]
    assert verdict(with_limit(plan, "matmul", at_least=1.0), records, "matmul", "flops_per_second").outcome == "pass"
    above = with_limit(plan, "matmul", at_least=1.0000001)
    assert verdict(above, records, "matmul", "flops_per_second").outcome == "fail"


def test_a_result_above_the_plausibility_bound_is_impossibly_good(plan, make):
    records = make.records(plan, matmul=0.8e-3)  # 1.25 times the measured peak; the bound is 1.1
    v = verdict(plan, records, "matmul", "flops_per_second", unit="fraction")
    assert v.outcome == "fail"
    assert "impossibly good" in v.reason


def test_a_rate_without_its_own_bound_may_not_exceed_its_measured_ceiling(plan, make):
    v = verdict(plan, make.records(plan, matmul=0.8e-3), "matmul", "flops_per_second", unit="GFLOP/s")
    assert v.outcome == "fail"
    assert "impossibly good" in v.reason
    assert "peak/float32 avx2" in v.reason


def test_a_time_below_its_lower_bound_is_impossibly_good(plan, records):
    limited = with_limit(plan, "allreduce", metric="seconds", unit="us", at_least=2000)
    v = verdict(limited, records, "allreduce", "seconds")
    assert v.outcome == "fail"
    assert "impossibly good" in v.reason


def test_a_limit_a_thousand_times_too_small_is_an_error_and_not_a_pass(plan, records):
    v = verdict(with_limit(plan, "matmul", at_least=0.001), records, "matmul", "flops_per_second")
    assert v.outcome == "error"
    assert "limits nothing" in v.reason


def test_a_slow_rank_fails_alone_and_is_told_its_distance_from_the_others(plan, make):
    records = make.records(plan)
    slow = make.record(plan.steps[1], 1, make.times(2.5e-3))
    records = [slow if (m.step, m.subject.rank) == ("matmul", 1) else m for m in records]
    v = verdict(plan, records, "matmul", "flops_per_second", rank=1, unit="fraction")
    assert v.outcome == "fail"
    assert "rank 1 on n1" in v.reason
    assert "50 % below the median of the other 1" in v.reason
    assert verdict(plan, records, "matmul", "flops_per_second", rank=0, unit="fraction").outcome == "pass"


def test_a_slow_ceiling_of_a_slow_rank_does_not_excuse_it(plan, make):
    peak, matmul, allreduce = plan.steps
    slow = [make.record(peak, 1, make.times(4e-3)), make.record(matmul, 1, make.times(5e-3))]
    fast = [make.record(peak, 0, make.times(1e-3, 60)), make.record(matmul, 0, make.times(1.25e-3))]
    records = [*fast, *slow, make.record(allreduce, -1, make.times(1e-3))]
    v = verdict(plan, records, "matmul", "flops_per_second", rank=1, unit="fraction")
    assert v.outcome == "fail"  # 0.8 of its own peak, and a fifth of what the machine can do


def test_wrong_numbers_fail_and_name_rank_host_sample_and_element(plan, records):
    sentence = "rank 1 on n1: timed result 3 has 1 wrong element, the first at (2, 5): 7.0 instead of 1.0"
    proof = Verification(samples=20, wrong_samples=1, wrong_elements=1, method="bit for bit", first_wrong=sentence)
    index = next(i for i, m in enumerate(records) if (m.step, m.subject.rank) == ("matmul", 1))
    v = verdict(plan, replace(records, index, verification=proof), "matmul", rank=1)
    assert v.outcome == "fail"
    assert sentence in v.reason
    assert "1 of 20 timed results" in v.reason


def test_an_error_record_is_an_error_and_its_sentence_is_the_reason(plan, records):
    changed = replace(records, 2, error="rank 0 on n0 was killed by SIGKILL while sampling")
    assert verdict(plan, changed, "matmul").reason == "rank 0 on n0 was killed by SIGKILL while sampling"
    assert verdict(plan, changed, "matmul", "flops_per_second", unit="fraction").outcome == "error"


def test_a_ceiling_that_was_not_measured_soundly_makes_what_hangs_on_it_an_error(plan, records):
    without = [m for m in records if m.step != "peak"]
    assert verdict(plan, without, "matmul", "flops_per_second", unit="fraction").outcome == "error"
    broken = [m if m.step != "peak" else m.model_copy(update={"verification": Verification()}) for m in records]
    assert verdict(plan, broken, "matmul", "flops_per_second", unit="fraction").outcome == "error"


def test_what_cannot_run_is_skipped_and_says_why(plan, records):
    steps = tuple(s.model_copy(update={"skip": "there is no GPU here"}) for s in plan.steps)
    verdicts = judge(plan.model_copy(update={"steps": steps}), records)
    assert {v.outcome for v in verdicts} == {"skip"}
    assert all("there is no GPU here" in v.reason for v in verdicts)


def test_too_few_samples_are_inconclusive(plan, make):
    records = [make.record(s, rank, make.times(1.25e-3, 5)) for s in plan.steps for rank in s.subjects]
    assert verdict(plan, records, "matmul").outcome == "inconclusive"
    assert verdict(plan, records, "matmul", "flops_per_second", unit="fraction").outcome != "pass"


def test_attempts_are_pooled(plan, make):
    records = [
        make.record(s, rank, make.times(1.25e-3, 5), attempt)
        for s in plan.steps
        for rank in s.subjects
        for attempt in (1, 2)
    ]
    assert verdict(plan, records, "matmul").outcome == "pass"
    assert verdict(plan, records, "matmul", "flops_per_second", unit="GFLOP/s").samples == 10


def test_exact_copies_count_once_and_two_different_records_of_one_attempt_are_an_error(plan, records, make):
    assert judge(plan, records + records) == judge(plan, records)
    other = make.record(plan.steps[1], 0, make.times(1.2e-3))
    assert verdict(plan, [*records, other], "matmul").outcome == "error"


def test_a_missing_first_attempt_is_an_error(plan, records):
    assert verdict(plan, replace(records, 2, attempt=2), "matmul").outcome == "error"


def test_a_collective_owes_the_times_of_every_rank(plan, records):
    changed = replace(records, 4, seconds={0: records[4].seconds[0]})
    v = verdict(plan, changed, "allreduce")
    assert v.outcome == "error"
    assert "missing: [1]" in v.reason


def test_a_metric_that_the_times_do_not_bear_out_is_an_error(plan, records):
    rates = records[2].metrics["flops_per_second"].values
    forged = Series(unit="flop/s", values=(rates[0] * 1.001, *rates[1:]))
    changed = replace(records, 2, metrics={**records[2].metrics, "flops_per_second": forged})
    v = verdict(plan, changed, "matmul")
    assert v.outcome == "error"
    assert "sample 0" in v.reason


def test_records_of_nothing_planned_are_not_judged(plan, records):
    stranger = records[2].model_copy(update={"step": "another"})
    assert judge(plan, [*records, stranger]) == judge(plan, records)


def test_a_record_of_a_rank_that_the_plan_does_not_have_is_an_error(plan, records):
    stranger = records[2].model_copy(update={"subject": records[2].subject.model_copy(update={"rank": 7})})
    found = [v for v in judge(plan, [*records, stranger]) if v.limit is None and v.outcome == "error"]
    assert len(found) == 1
    assert "rank 7" in found[0].reason


def test_judge_report_and_text_formats_import_neither_numpy_nor_mpi():
    import subprocess
    import sys

    code = (
        "import sys, pyhpc.acceptance.judge, pyhpc.acceptance.report, pyhpc.acceptance.formats.text, "
        "pyhpc.acceptance.formats.junit, pyhpc.acceptance.formats.json; "
        "print(sorted({'numpy', 'cupy', 'mpi4py', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_ceiling_whose_record_has_lost_its_metrics_is_an_error(plan, records):
    verdicts = judge(plan, replace(records, 0, metrics={}))
    told = next(v for v in verdicts if v.step == "peak" and v.outcome == "error")
    assert "the record has lost its metrics" in told.reason
