"""What each format shows of an accepted, a rejected and an incomplete run."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from pyhpc.acceptance.formats.format import format_of, formats
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.report import make_report


@pytest.fixture
def report(plan, make):
    def report(records=None, **medians):
        found = make.records(plan, **medians) if records is None else records
        return make_report(plan, found, judge(plan, found), "runs/a", "pyhpc accept synthetic.toml")

    return report


def test_the_folder_is_the_list_of_formats():
    assert set(formats()) >= {"html", "json", "junit", "text"}
    assert format_of("junit").file == "junit.xml"
    assert format_of("text").file == "report.txt"


def test_text_says_failures_first_and_the_answer_last(report):
    text = format_of("text").render(report(matmul=3e-3))
    lines = text.splitlines()
    assert lines[2] == "Fails:"
    assert "rank 0 on n0" in lines[3]
    assert any(line.startswith("REJECTED: ") for line in lines[-3:])
    assert "pyhpc accept synthetic.toml" in text


def test_text_of_an_accepted_run_has_a_row_for_each_limit_and_no_complaint(report):
    text = format_of("text").render(report())
    assert "Fails:" not in text
    assert "Could not be judged:" not in text
    assert sum(line.startswith("pass ") for line in text.splitlines()) == 5
    assert "ACCEPTED: all 10 required verdicts pass" in text


def test_json_has_a_schema_version_and_the_raw_samples(report):
    found = json.loads(format_of("json").render(report()))
    assert found["schema_version"] == 1
    assert found["answer"] == "ACCEPTED"
    assert len(found["measurements"][0]["seconds"]["0"]) == 20


def with_copy(plan, make):
    """The plan and its records, with a copy of 4 GB/s that bounds the all-reduce of 4 MB in 1 ms."""
    copy = plan.steps[0].cases[0].model_copy(update={"kernel": "memory", "name": "copy DRAM", "bytes": 4_000_000})
    bounded = plan.steps[2].cases[0].model_copy(update={"ceilings": {"algbw": "memory/copy DRAM"}})
    steps = (make.step("memory", copy), plan.steps[2].model_copy(update={"cases": (bounded,)}))
    records = [make.record(steps[0], rank, make.times(1e-3)) for rank in (0, 1)]
    together = make.record(steps[1], -1, make.times(2e-3))
    apart = together.conditions.model_copy(update={"line_latency_seconds": (60e-9,)})
    return plan.model_copy(update={"steps": steps}), [*records, together.model_copy(update={"conditions": apart})]


def test_an_all_reduce_is_shown_with_its_bandwidths_its_share_of_the_bound_and_the_line_latency(plan, make):
    bounded, records = with_copy(plan, make)
    report = make_report(bounded, records, judge(bounded, records), "runs/a", "pyhpc accept synthetic.toml")
    (row,) = report.collectives
    # 4 MB in 2 ms; the copy moves 4 GB/s, so that 8 MB a rank take at least 2 ms.
    assert row.cells == ("allreduce: float32 sum 1000000 ring", "4000000", "2000", "2", "2", "100.0", "60")
    text = format_of("text").render(report)
    assert list(row.cells[1:]) in [line.split()[-6:] for line in text.splitlines()]
    assert '<td class="n">100.0</td>' in format_of("html").render(report)
    found = json.loads(format_of("json").render(report))["collectives"][0]
    assert (found["share_of_bound"], found["order"], found["buffer"]) == (pytest.approx(1), "fast", "ordinary")


def test_a_wrong_all_reduce_is_not_shown_among_the_measured_ones(plan, make):
    bounded, records = with_copy(plan, make)
    wrong = records[-1].verification.model_copy(update={"wrong_samples": 1})
    records[-1] = records[-1].model_copy(update={"verification": wrong})
    assert make_report(bounded, records, judge(bounded, records), "runs/a", "").collectives == ()


@pytest.mark.parametrize(("medians", "failures", "kind"), [({}, 0, None), ({"matmul": 3e-3}, 5, "failure")])
def test_junit_has_one_test_case_a_verdict_and_one_for_the_answer(report, medians, failures, kind):
    made = report(**medians)
    root = ElementTree.fromstring(format_of("junit").render(made))
    assert root.get("tests") == str(len(made.verdicts) + 1)
    assert root.get("failures") == str(failures)
    answer = root.find("testsuite[@name='answer']/testcase")
    assert ([child.tag for child in answer] or [None]) == [kind]


def test_junit_tells_measured_limit_unit_and_source(report):
    root = ElementTree.fromstring(format_of("junit").render(report(matmul=3e-3)))
    failure = root.find(".//testsuite[@name='matmul']/testcase/failure")
    assert "at least 0.5" in failure.get("message")
    assert "contract, annex 2" in failure.text


def test_junit_never_turns_what_is_missing_into_a_pass(report):
    root = ElementTree.fromstring(format_of("junit").render(report(records=[])))
    assert all(len(case) == 1 for case in root.iter("testcase"))
    assert root.get("errors") == root.get("tests")


def test_junit_holds_what_xml_cannot(report, plan, records):
    broken = [m.model_copy(update={"error": "bell \x07 & <tag>"}) for m in records]
    root = ElementTree.fromstring(format_of("junit").render(report(records=broken)))
    assert "bell ? & <tag>" in next(root.iter("error")).get("message")
