"""The launcher mpiexec against workers that work, raise, die, hang and lie."""

from __future__ import annotations

import psutil
import pytest

from pyhpc import comm
from pyhpc.acceptance import records
from pyhpc.acceptance.fault import VARIABLE
from pyhpc.acceptance.launchers.launcher import launcher, launchers
from pyhpc.acceptance.plan import Case, Step
from pyhpc.errors import ConfigError
from pyhpc.measure.measurement import Sampling

needs_mpi = pytest.mark.skipif(comm.installation_absence() is not None, reason=str(comm.installation_absence()))


def peak_step(ranks: int = 1, timeout_seconds: float = 60.0) -> Step:
    """Two small cases on each of `ranks` ranks."""
    cases = tuple(
        Case(name=dtype, kernel="peak", variant="generic", problem={"dtype": dtype, "blocks": 1})
        for dtype in ("float32", "int8")
    )
    sampling = Sampling(min_samples=4, max_samples=6, budget_seconds=0.2)
    return Step(
        name="peak",
        workload="kernel",
        nodes="each",
        ranks=ranks,
        threads=1,
        timeout_seconds=timeout_seconds,
        cases=cases,
        limits=(),
        sampling=sampling,
    )


def run(step: Step, folder, monkeypatch, fault: str = ""):
    monkeypatch.setenv(VARIABLE, fault)
    return launcher("mpiexec").launch(step, 1, folder, lambda rank, case, phase: None)


def test_the_folder_is_the_list_of_launchers():
    assert set(launchers()) == {"inline", "mpiexec", "slurm"}
    with pytest.raises(ConfigError, match="there is no launcher 'ssh'"):
        launcher("ssh")


def test_a_sound_step_gives_one_verified_record_a_case(tmp_path, monkeypatch):
    found = run(peak_step(), tmp_path, monkeypatch)
    assert [(m.case, m.error) for m in found] == [("float32", None), ("int8", None)]
    for m in found:
        assert m.verification.samples == len(m.seconds[0]) >= 4
        assert m.verification.wrong_samples == 0
        assert m.metrics["flops_per_second"].unit == "flop/s"
        assert m.subject.host


def test_one_flipped_bit_in_one_timed_result_is_found_and_located(tmp_path, monkeypatch):
    found = run(peak_step(), tmp_path, monkeypatch, "flip case=int8 sample=2 bit=3")
    assert [m.verification.wrong_samples for m in found] == [0, 1]
    assert "rank 0 on" in found[1].verification.first_wrong
    assert "timed result 2 has 1 wrong element, the first at (0,)" in found[1].verification.first_wrong


def test_an_exception_is_an_error_record_and_the_other_cases_go_on(tmp_path, monkeypatch):
    float32, int8 = run(peak_step(), tmp_path, monkeypatch, "raise case=float32")
    assert float32.error.startswith("rank 0 on ")
    assert "failed in float32: InjectedFault" in float32.error
    assert int8.error is None


def test_a_killed_worker_owes_an_error_record_for_each_unmeasured_case(tmp_path, monkeypatch):
    found = run(peak_step(), tmp_path, monkeypatch, "die case=int8")
    assert [m.case for m in found] == ["float32", "int8"]
    assert found[0].error is None
    assert "ended with signal SIGKILL while preparing int8 in step peak" in found[1].error


def test_a_hanging_worker_is_stopped_and_named(tmp_path, monkeypatch):
    found = run(peak_step(timeout_seconds=4.0), tmp_path, monkeypatch, "hang")
    assert [m.case for m in found] == ["float32", "int8"]
    for m in found:
        assert "rank 0 on" in m.error
        assert "had not finished after 4 s and was stopped while preparing float32" in m.error


@needs_mpi
def test_of_two_ranks_the_killed_one_is_blamed_and_its_neighbour_keeps_its_records(tmp_path, monkeypatch):
    found = run(peak_step(ranks=2), tmp_path, monkeypatch, "die rank=1 case=int8")
    errors = {(m.subject.rank, m.case) for m in found if m.error}
    assert (1, "int8") in errors
    assert {rank for rank, _ in errors} == {1}
    assert (1, "float32") in {(m.subject.rank, m.case) for m in found if m.error is None}


@needs_mpi
def test_of_two_ranks_the_hanging_one_is_blamed(tmp_path, monkeypatch):
    found = run(peak_step(ranks=2, timeout_seconds=8.0), tmp_path, monkeypatch, "hang rank=1 case=int8")
    assert {(m.subject.rank, m.case) for m in found if m.error} == {(1, "int8")}
    assert {(m.subject.rank, m.case) for m in found if not m.error} == {(0, "float32"), (0, "int8"), (1, "float32")}


@needs_mpi
def test_a_killed_launcher_is_told_apart_from_a_killed_rank(tmp_path, monkeypatch):
    def kill_launcher(rank, case, phase):
        """As soon as both ranks hang, kill the process that started them."""
        if len(records.states(tmp_path)) == 2:
            for process in psutil.Process().children():
                process.kill()

    monkeypatch.setenv(VARIABLE, "hang case=int8")
    found = launcher("mpiexec").launch(peak_step(ranks=2), 1, tmp_path, kill_launcher)
    errors = [m.error for m in found if m.error]
    assert errors
    assert all(
        error.startswith("the MPI launcher ended with signal SIGKILL and named no rank; rank ") for error in errors
    )
