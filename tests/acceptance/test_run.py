"""The run stage with a launcher that measures nothing: what is asked, kept, repeated, and resumed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pyhpc.acceptance import records
from pyhpc.acceptance.config import Limit
from pyhpc.acceptance.judge import judge
from pyhpc.acceptance.launchers.launcher import Launcher
from pyhpc.acceptance.plan import Case, Plan, Step
from pyhpc.acceptance.run import prepare, run
from pyhpc.errors import RunError
from pyhpc.machine import Machine
from pyhpc.measure.measurement import Measurement, Sampling, Series, Subject, Verification

MACHINE = Machine(
    host="n1",
    processor="p",
    architecture="x86_64",
    sockets=1,
    cores=2,
    threads_per_core=1,
    nominal_hertz=None,
    memory_bytes=1,
    cache_bytes={},
    targets={},
)
LIMIT = Limit(metric="flops_per_second", unit="FLOP/s", at_least=50, source="test")


class Silent:
    """A progress that remembers the steps begun."""

    def __init__(self):
        self.begun = []

    def begin_step(self, step, attempt):
        self.begun.append((step.name, attempt, tuple(case.name for case in step.cases)))

    def at(self, rank, case, phase):
        pass

    def end_step(self, step, attempt, measurements):
        pass


def make_plan(attempts: int = 1) -> Plan:
    case = {"kernel": "peak", "variant": "v", "problem": {}, "flops": 100, "bytes": 8}
    steps = tuple(
        Step(
            name=name,
            workload="kernel",
            nodes="each",
            ranks=1,
            threads=1,
            timeout_seconds=1,
            cases=tuple(Case(name=c, **case) for c in ("x", "y")),
            limits=(LIMIT,),
            sampling=Sampling(attempts=attempts, min_samples=10),
        )
        for name in ("one", "two")
    )
    return Plan(
        suite="s",
        suite_path="s.toml",
        suite_digest="",
        launcher="fake",
        nodes=1,
        machine=MACHINE,
        steps=steps,
        created=0.0,
        pyhpc_version="0",
    )


def measured(step: Step, case: Case, attempt: int, seconds: tuple[float, ...]) -> Measurement:
    rates = tuple(case.flops / t for t in seconds)
    return Measurement(
        step=step.name,
        case=case.name,
        kernel=case.kernel,
        variant=case.variant,
        problem=case.problem,
        subject=Subject(rank=0, host="n1"),
        attempt=attempt,
        seconds={0: seconds},
        metrics={
            "seconds": Series(unit="s", values=seconds),
            "flops_per_second": Series(unit="flop/s", values=rates),
        },
        flops=case.flops,
        bytes=case.bytes,
        verification=Verification(samples=len(seconds), method="test"),
        started=time.time(),
        finished=time.time(),
    )


def fake(launch) -> Launcher:
    return Launcher(name="fake", summary="", absence=lambda: None, launch=launch)


def steady(step, attempt, folder, progress):
    return [measured(step, case, attempt, (1.0,) * 20) for case in step.cases]


def test_every_case_is_measured_once_and_is_on_disk(tmp_path):
    progress = Silent()
    found = run(make_plan(), tmp_path, fake(steady), progress)
    assert [(m.step, m.case) for m in found] == [("one", "x"), ("one", "y"), ("two", "x"), ("two", "y")]
    assert records.read(tmp_path / records.RECORDS) == (found, [])
    assert progress.begun == [("one", 1, ("x", "y")), ("two", 1, ("x", "y"))]


def test_a_run_interrupted_between_steps_goes_on_behind_the_last_one(tmp_path):
    def interrupted(step, attempt, folder, progress):
        if step.name == "two":
            raise KeyboardInterrupt
        return steady(step, attempt, folder, progress)

    with pytest.raises(KeyboardInterrupt):
        run(make_plan(), tmp_path, fake(interrupted), Silent())
    progress = Silent()
    found = run(make_plan(), tmp_path, fake(steady), progress)
    assert progress.begun == [("two", 1, ("x", "y"))]
    assert len(found) == len(records.read(tmp_path / records.RECORDS)[0]) == 4


def test_a_driver_killed_within_a_step_keeps_the_cases_its_worker_had_finished(tmp_path):
    def killed(step, attempt, folder, progress):
        records.append(folder / "rank-0.jsonl", steady(step, attempt, folder, progress)[0])
        raise SystemExit

    with pytest.raises(SystemExit):
        run(make_plan(), tmp_path, fake(killed), Silent())
    progress = Silent()
    run(make_plan(), tmp_path, fake(steady), progress)
    assert progress.begun == [("one", 1, ("y",)), ("two", 1, ("x", "y"))]
    assert len(records.read(tmp_path / records.RECORDS)[0]) == 4


def test_records_that_a_launcher_finds_again_on_disk_are_stored_once(tmp_path):
    def killed(step, attempt, folder, progress):
        records.append(folder / "rank-0.jsonl", steady(step, attempt, folder, progress)[0])
        raise SystemExit

    def as_workers_do(step, attempt, folder, progress):
        for one in steady(step, attempt, folder, progress):
            records.append(folder / "rank-0.jsonl", one)
        return records.read(folder / "rank-0.jsonl")[0]

    with pytest.raises(SystemExit):
        run(make_plan(), tmp_path, fake(killed), Silent())
    run(make_plan(), tmp_path, fake(as_workers_do), Silent())
    stored = [(m.step, m.case) for m in records.read(tmp_path / records.RECORDS)[0]]
    assert sorted(stored) == [("one", "x"), ("one", "y"), ("two", "x"), ("two", "y")]


def test_an_inconclusive_case_alone_is_measured_again_until_attempts_end(tmp_path):
    def wide(step, attempt, folder, progress):
        around = tuple(1.0 if i % 2 else 4.0 for i in range(20))  # rates 100 and 25 about the limit of 50
        sure = (1.0,) * 20
        return [measured(step, case, attempt, around if case.name == "y" else sure) for case in step.cases]

    progress = Silent()
    run(make_plan(attempts=3), tmp_path, fake(wide), progress)
    assert progress.begun[:3] == [("one", 1, ("x", "y")), ("one", 2, ("y",)), ("one", 3, ("y",))]


def test_an_error_is_a_record_and_is_not_tried_again_on_resume(tmp_path):
    def broken(step, attempt, folder, progress):
        return [m.model_copy(update={"error": "rank 0 on n1 died"}) for m in steady(step, attempt, folder, progress)]

    run(make_plan(attempts=3), tmp_path, fake(broken), Silent())
    progress = Silent()
    found = run(make_plan(attempts=3), tmp_path, fake(steady), progress)
    assert progress.begun == []
    assert all(m.error for m in found)


def test_a_folder_with_a_run_in_it_is_not_overwritten(tmp_path):
    prepare(make_plan(), tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run"):
        prepare(make_plan(), tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        prepare(make_plan(), Path(tmp_path / "file" / "run"))


def test_a_ceiling_that_a_proved_result_exceeds_is_measured_again_and_then_believed(tmp_path):
    limit = Limit(metric="flops_per_second", unit="fraction", of="ceiling", at_least=0.1, at_most=1.2, source="test")
    plan = make_plan(attempts=2)
    ceiling, other = plan.steps
    ceiling = ceiling.model_copy(update={"limits": ()})
    cases = tuple(c.model_copy(update={"ceilings": {"flops_per_second": f"one/{c.name}"}}) for c in other.cases)
    plan = plan.model_copy(update={"steps": (ceiling, other.model_copy(update={"limits": (limit,), "cases": cases}))})

    def disturbed_once(step, attempt, folder, progress):
        slow = step.name == "one" and attempt == 1
        return [measured(step, c, attempt, (9.0 if slow and c.name == "y" else 1.0,) * 20) for c in step.cases]

    progress = Silent()
    found = run(plan, tmp_path, fake(disturbed_once), progress)
    assert progress.begun == [("one", 1, ("x", "y")), ("two", 1, ("x", "y")), ("one", 2, ("y",))]
    assert {v.outcome for v in judge(plan, found)} == {"pass"}

    def too_good(step, attempt, folder, progress):
        return [measured(step, c, attempt, (9.0 if step.name == "one" else 1.0,) * 20) for c in step.cases]

    progress = Silent()
    found = run(plan, tmp_path / "lying", fake(too_good), progress)
    assert progress.begun[2:] == [("one", 2, ("x", "y"))]
    assert "fail" in {v.outcome for v in judge(plan, found)}
