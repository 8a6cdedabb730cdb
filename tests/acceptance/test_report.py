"""The answer: ACCEPTED only for the whole, sound run; property tests that break a run in every way they can."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pyhpc.acceptance import records as storage
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.plan import PLAN_FILE
from pyhpc.acceptance.report import EXIT_STATUS, Report, load_run, make_report, write_outputs
from pyhpc.errors import ConfigError, RunError
from pyhpc.measure.measurement import Measurement

ANY_RUN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def report_on(plan, records):
    return make_report(plan, records, judge(plan, records), "run", "pyhpc accept synthetic.toml")


def answer(plan, records):
    return report_on(plan, records).answer


def test_a_complete_passing_run_is_accepted(plan, records):
    report = report_on(plan, records)
    assert report.answer == "ACCEPTED"
    assert EXIT_STATUS[report.answer] == 0
    covered = report.coverage
    assert (covered.steps, covered.steps_measured) == (3, 3)
    assert (covered.cases, covered.cases_measured) == (5, 5)
    assert (covered.nodes, covered.nodes_measured) == (2, 2)
    assert covered.complete


def test_a_failed_limit_rejects(plan, make):
    report = report_on(plan, make.records(plan, matmul=3e-3))
    assert report.answer == "REJECTED"
    assert "rank 0 on n0" in report.sentence


def test_no_records_at_all_are_incomplete(plan):
    report = report_on(plan, [])
    assert report.answer == "INCOMPLETE"
    assert report.coverage.cases_measured == 0
    assert len(report.coverage.missing) >= 5


def test_a_plan_that_requires_nothing_is_never_accepted(plan, records):
    steps = tuple(step.model_copy(update={"required": False}) for step in plan.steps)
    assert answer(plan.model_copy(update={"steps": steps}), records) == "INCOMPLETE"


def test_a_step_that_is_not_required_does_not_reject(plan, make):
    steps = tuple(s.model_copy(update={"required": s.name != "matmul"}) for s in plan.steps)
    optional = plan.model_copy(update={"steps": steps})
    assert answer(optional, make.records(plan, matmul=3e-3)) == "ACCEPTED"


def test_verdicts_that_were_dropped_do_not_go_unnoticed(plan, records):
    verdicts = [v for v in judge(plan, records) if v.step != "allreduce"]
    assert make_report(plan, records, verdicts, "run", "command").answer == "INCOMPLETE"


def test_a_node_that_nobody_measured_is_missed(plan, records):
    steps = plan.steps[:2]
    moved = [m.model_copy(update={"subject": m.subject.model_copy(update={"host": "n0"})}) for m in records[:4]]
    report = report_on(plan.model_copy(update={"steps": steps}), moved)
    assert report.answer == "INCOMPLETE"
    assert "1 of 2 nodes were measured" in report.coverage.missing


# --- breaking a run -----------------------------------------------------------------------------------------------


def leaves(value, path=()):
    """The path of every plain value inside a JSON value, and of every list and object."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(member, (*path, key))


# What a verdict does not rest on: notes on conditions, and who among the ranks was the slowest of a collective.
IRRELEVANT = ("conditions", "started", "finished", "ceilings")


def changed(value):
    """Something else of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 3 + 1
    if isinstance(value, str):
        return value + "x"
    return type(value)()


def break_record(record, path, how):
    """One record with one place removed, zeroed or changed; None if that changes nothing."""
    stored = json.loads(record.model_dump_json())
    place = stored
    for key in path[:-1]:
        place = place[key]
    before = place[path[-1]]
    if how == "remove":
        del place[path[-1]]
    else:
        zero = type(before)() if before is not None else "an error"
        place[path[-1]] = zero if how == "zero" or before is None else changed(before)
    try:
        broken = Measurement.model_validate(stored)
    except ValidationError:
        return []  # the reader drops such a line
    return None if broken.model_dump_json() == record.model_dump_json() else [broken]


@ANY_RUN
@given(st.data())
def test_no_broken_record_is_ever_accepted(plan, records, data):
    index = data.draw(st.integers(0, len(records) - 1), "record")
    stored = json.loads(records[index].model_dump_json())
    relevant = [path for path in leaves(stored) if path[0] not in IRRELEVANT]
    # These say who measured, not what: any value but an empty host or a rank that is not in the step is as good.
    relevant = [p for p in relevant if p[:1] != ("subject",) or p in (("subject",), ("subject", "rank"))]
    # An error of less than the tolerance is right, whatever it is.
    relevant = [p for p in relevant if p not in (("verification", "worst"),)]
    path = data.draw(st.sampled_from(relevant), "place")
    how = data.draw(st.sampled_from(["remove", "zero", "change"]), "how")
    if (path, how) == (("verification", "method"), "change"):
        return
    # A collective's subject is only its slowest rank, and both ranks are in the step.
    if path == ("subject", "rank") and records[index].ranks > 1:
        return
    broken = break_record(records[index], path, how)
    if broken is None:
        return
    if (
        path[0] == "metrics"
        and len(path) <= 2
        and how != "change"
        and not judged_metric(plan, records[index], path, stored)
    ):
        return
    assert answer(plan, [*records[:index], *broken, *records[index + 1 :]]) != "ACCEPTED", (path, how)


def judged_metric(plan, record, path, stored):
    """Whether a limit rests on the metric that was removed; others are views of the times, from which ceilings come."""
    wanted = {limit.metric for step in plan.steps if step.name == record.step for limit in step.limits}
    return len(path) == 1 or path[1] in wanted


@ANY_RUN
@given(st.lists(st.integers(0, 4), min_size=1, unique=True))
def test_no_removed_record_is_ever_accepted(plan, records, removed):
    assert answer(plan, [m for i, m in enumerate(records) if i not in removed]) == "INCOMPLETE"


@ANY_RUN
@given(st.lists(st.integers(0, 4), min_size=1))
def test_exact_copies_change_nothing(plan, records, doubled):
    copies = [records[i] for i in doubled]
    assert report_on(plan, [*records, *copies]).verdicts == report_on(plan, records).verdicts


@ANY_RUN
@given(st.integers(0, 4), st.integers(0, 19), st.floats(0, 2), st.booleans())
def test_no_changed_sample_is_accepted_even_if_all_metrics_were_forged_alike(
    plan, records, make, index, sample, factor, drop
):
    # A forger who also recomputes the metrics is still caught when the count of verified results does not fit.
    record = records[index]
    rank = -1 if record.ranks > 1 else record.subject.rank
    (step,) = [s for s in plan.steps if s.name == record.step]
    times = list(next(iter(record.seconds.values())))
    if drop:
        del times[sample]
    else:
        times.append(times[sample] * (factor + 0.1))
    forged = make.record(step, rank, tuple(times)).model_copy(update={"verification": record.verification})
    assert answer(plan, [*records[:index], forged, *records[index + 1 :]]) != "ACCEPTED"


@ANY_RUN
@given(st.lists(st.floats(1, 100), min_size=20, max_size=20), st.sampled_from(["matmul", "allreduce"]))
def test_interference_never_turns_a_rejected_run_into_an_accepted_one(plan, make, slowdowns, name):
    # Interference only slows: whatever it does to each sample, a machine below its limit does not get above it.
    base = {"matmul": 3e-3} if name == "matmul" else {"allreduce": 5e-3}
    records = make.records(plan, **base)
    assert answer(plan, records) == "REJECTED"
    noisy = []
    for record in records:
        (step,) = [s for s in plan.steps if s.name == record.step]
        rank = -1 if record.ranks > 1 else record.subject.rank
        times = next(iter(record.seconds.values()))
        disturbed = tuple(t * s for t, s in zip(times, slowdowns, strict=True)) if step.name == name else times
        noisy.append(make.record(step, rank, disturbed))
    assert answer(plan, noisy) != "ACCEPTED"


# --- on disk ------------------------------------------------------------------------------------------------------


def store(folder, plan, records):
    storage.write_atomically(folder / PLAN_FILE, plan.model_dump_json())
    for record in records:
        storage.append(folder / storage.RECORDS, record)


def test_a_stored_run_is_judged_as_the_live_one(tmp_path, plan, records):
    store(tmp_path, plan, records)
    stored = load_run(tmp_path)
    assert stored.damaged == ()
    assert judge(stored.plan, stored.measurements) == judge(plan, records)


@ANY_RUN
@given(st.data())
def test_no_damage_to_the_file_is_ever_accepted(tmp_path_factory, plan, records, data):
    folder = tmp_path_factory.mktemp("run")
    store(folder, plan, records)
    path = folder / storage.RECORDS
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 3), "the file ends after")
    path.write_bytes(content[:cut])
    stored = load_run(folder)
    assert answer(stored.plan, stored.measurements) == "INCOMPLETE"


def test_a_torn_line_is_reported(tmp_path, plan, records):
    store(tmp_path, plan, records)
    path = tmp_path / storage.RECORDS
    path.write_bytes(path.read_bytes()[:-40])
    stored = load_run(tmp_path)
    assert len(stored.measurements) == len(records) - 1
    assert "line 5 is damaged" in stored.damaged[0]
    report = make_report(
        stored.plan, stored.measurements, judge(plan, stored.measurements), tmp_path, "c", stored.damaged
    )
    assert stored.damaged[0] in report.notes


def test_a_folder_without_a_plan_and_a_damaged_plan_are_refused_in_a_sentence(tmp_path, plan):
    with pytest.raises(RunError, match="is no run folder"):
        load_run(tmp_path)
    (tmp_path / PLAN_FILE).write_text(plan.model_dump_json()[:-5])
    with pytest.raises(RunError, match="is damaged"):
        load_run(tmp_path)


def test_every_format_is_written_and_json_gives_the_same_report_back(tmp_path, plan, records):
    report = report_on(plan, records)
    written = write_outputs(report, tmp_path, ["json", "text", "junit"])
    assert [path.name for path in written] == ["report.json", "report.txt", "junit.xml"]
    assert (
        Report.model_validate_json((tmp_path / "report.json").read_bytes()).model_dump_json()
        == report.model_dump_json()
    )


def test_an_unknown_format_and_an_unwritable_folder_are_refused_in_a_sentence(tmp_path, plan, records):
    report = report_on(plan, records)
    with pytest.raises(ConfigError, match="there is no format 'jsn'; did you mean 'json'"):
        write_outputs(report, tmp_path, ["jsn"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_outputs(report, tmp_path / "file", ["json"])
