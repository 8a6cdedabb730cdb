"""Contestants in processes of their own: verified, alternating, and harmless when they fail."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from pyhpc.bench import Comparison, bench_command, contest
from pyhpc.bench.contest import _Field, _Process, _row, compare
from pyhpc.bench.worker import Worker, enter
from pyhpc.errors import ConfigError, MeasurementError, Unsupported
from pyhpc.kernels.kernel import Variant, kernels
from pyhpc.kernels.peak import PeakProblem

PROBLEM = PeakProblem("float32", blocks=1)


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(contest, "ROUND_SECONDS", 0.01)


def test_contestants_take_turns_and_every_sample_is_kept():
    told = []
    found = compare("peak", [PROBLEM], ["best", "generic"], rounds=2, threads=(1,), progress=told.append)
    first, second = found.rows
    assert (first.kind, second.contestant) == ("ours", "generic")
    assert [row.error for row in found.rows] == [None, None]
    assert all([r.index for r in row.rounds] == [0, 1] for row in found.rows)
    assert all(len(r.seconds) >= 3 and min(r.seconds) > 0 for row in found.rows for r in row.rounds)
    assert all(row.verification for row in found.rows)
    turns = [sentence.rpartition(" ")[2] for sentence in told if "round" in sentence]
    assert turns == [first.contestant, "generic", "generic", first.contestant]  # the order rotates


def test_a_contestant_that_cannot_run_is_a_row_with_the_reason_and_the_others_go_on():
    refused = next((v.name for v in kernels()["peak"].variants() if v.reject(PROBLEM)), None)
    rows = [_row("generic", "ours", PROBLEM, 1), _row("nobody", "ours", PROBLEM, 1)]
    with _Field(1) as field:
        good, bad = field.compete(rows, 1, None)
    assert good.error is None
    assert "no variant 'nobody'" in bad.error
    assert bad.rounds == ()
    if refused:
        assert refused in compare("peak", [PROBLEM], [refused], 1).rows[0].error


def test_a_process_that_is_killed_says_by_what():
    worker = _Process(1)
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(MeasurementError, match="killed by SIGKILL"):
        worker.ask({"sample": {"index": 0, "seconds": 0.01}}, 30)


def test_a_process_that_exits_says_its_status_and_last_words():
    worker = _Process(1)
    worker._process.stdin.write(b"no JSON\n")
    with pytest.raises(MeasurementError, match=r"exited with status 1.*JSONDecodeError"):
        worker.ask({"sample": {"index": 0, "seconds": 0.01}}, 30)


def test_a_process_that_does_not_answer_is_killed():
    worker = _Process(1)
    with pytest.raises(MeasurementError, match="did not answer within 0 s"):
        worker.ask({"sample": {"index": 0, "seconds": 0.01}}, 0)
    assert worker._process.poll() is not None


def test_workers_see_their_thread_count_and_no_handicap_of_the_peers(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    worker = _Process(1)
    try:
        assert worker.ask({"sample": {"index": 0, "seconds": 0.01}}, 30)["error"].endswith("nothing was prepared")
        with open(f"/proc/{worker._process.pid}/environ") as file:
            seen = dict(pair.partition("=")[::2] for pair in file.read().split("\0"))
        assert "OPENBLAS_CORETYPE" not in seen
        assert "OPENBLAS_L2_SIZE" not in seen
        assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "1"
    finally:
        worker.end()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("fft", [PROBLEM], ["best"]), "no kernel"),
        (("peak", [], ["best"]), "at least one problem"),
        (("peak", [PROBLEM], ["nobody"]), "no variant"),
        (("peak", [PROBLEM], ["best"], 0), "one round"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_started(arguments, word):
    with pytest.raises(ConfigError, match=word):
        compare(*arguments)


def stub(write):
    return Variant("stub", "cpu", lambda problem: None, lambda problem, arrays, out, threads: write(out))


def count(out):
    out[0] = PROBLEM.flops


def test_a_wrong_contestant_is_not_timed():
    with pytest.raises(MeasurementError, match="wrong on float32"):
        enter(stub(lambda out: out.fill(1)), PROBLEM, 1)
    with pytest.raises(MeasurementError, match="wrong on float32"):
        enter(stub(lambda out: None), PROBLEM, 1)


def test_an_entry_poisons_its_output_and_notices_a_single_changed_bit():
    entry = enter(stub(count), PROBLEM, 1)
    assert entry.unchanged()
    entry.task.clear()
    assert not entry.unchanged()
    entry.task.run()
    assert entry.unchanged()


def test_a_result_that_a_peer_makes_itself_is_collected_after_every_run():
    made = []

    def run(problem, arrays, out, threads):
        made.append(np.empty_like(out))
        count(made[-1])

    peer = replace(stub(count), run=run, collect=lambda problem, arrays, out: np.copyto(out, made.pop()))
    entry = enter(peer, PROBLEM, 1)
    entry.task.clear()
    entry.task.run()
    assert entry.unchanged()
    assert not made


def test_a_peer_may_differ_in_bits_only_if_it_is_right():
    results = iter([0.0, -0.0, 1.0])
    problem = _OneZero("float32")
    variant = stub(lambda out: out.fill(next(results)))
    ours = enter(variant, problem, 1)
    ours.task.run()
    assert not ours.unchanged()  # −0 is not the verified 0
    results = iter([0.0, -0.0, 1.0])
    peer = enter(variant, problem, 1, deterministic=False)
    peer.task.run()
    assert peer.unchanged()
    peer.task.run()
    assert not peer.unchanged()


class _OneZero(PeakProblem):
    """A result of one zero of either sign."""

    def output(self):
        return np.full(1, np.nan)

    def verify(self, result, inputs):
        check = PROBLEM.verify(np.array([PROBLEM.flops]), {})
        return replace(check, wrong=int(result[0] != 0))


def test_variants_that_refuse_are_told_apart_from_wrong_ones():
    refusing = replace(stub(count), reject=lambda problem: "too odd")
    with pytest.raises(Unsupported, match="too odd"):
        enter(refusing, PROBLEM, 1)


def test_a_changed_result_while_sampling_is_an_error_that_names_the_sample():
    worker = Worker()
    worker.entry = enter(stub(count), PROBLEM, 1)
    worker.entry.task.run = lambda: None  # from now on the poison stays
    assert "sample 0 of round 4 differs" in worker.answer({"sample": {"index": 4, "seconds": 0.01}})["error"]


def test_the_command_prints_a_table_writes_its_files_and_exits_with_0(tmp_path, capsys):
    json_path, plot_path = tmp_path / "found.json", tmp_path / "found.svg"
    status = bench_command("peak", ["blocks=1"], ["float32"], ["generic"], (1,), str(json_path), str(plot_path))
    assert status == 0
    assert "generic" in capsys.readouterr().out
    found = Comparison.model_validate_json(json_path.read_text())
    assert [row.kind for row in found.rows] == ["ours", "ours"]
    assert found.rows[0].seconds.low is not None  # enough rounds for an interval
    assert plot_path.stat().st_size > 5000


def test_the_command_sends_all_reduce_to_the_ranks_and_refuses_a_bad_plot_before_measuring():
    with pytest.raises(ConfigError, match="across ranks"):
        bench_command("allreduce", [], [], [])
    with pytest.raises(ConfigError, match=r"\.png"):
        bench_command("peak", ["blocks=1"], ["float32"], [], (1,), None, "found.jpeg")
