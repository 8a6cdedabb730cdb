"""The command line: what it prints, and its exit status 0, 1, 2, 3."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pyhpc.cli import main

SUITE = """schema = 1
name = "tiny"
[[step]]
name = "matmul"
workload = "kernel"
threads = 1
cases = [{kernel = "matmul", dtype = "float32", m = 16, n = 16, k = 16}]
sampling = {budget_seconds = 0.2, min_samples = 10, max_samples = 50}
[[step.limit]]
metric = "seconds"
unit = "s"
at_most = 10
source = "test"
"""


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A real run of a tiny suite, started as a user starts it."""
    folder = tmp_path_factory.mktemp("accept")
    (folder / "tiny.toml").write_text(SUITE)
    command = [sys.executable, "-m", "pyhpc", "accept", "tiny.toml", "--out", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return folder, done


def test_accept_measures_judges_reports_and_exits_with_0(stored):
    folder, done = stored
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ACCEPTED: " in done.stdout
    found = {path.name for path in (folder / "run").iterdir()}
    assert found >= {"plan.json", "records.jsonl", "report.html", "report.json", "report.txt", "junit.xml"}


def test_a_stored_run_is_judged_again_also_by_another_suite(stored, run):
    folder, _ = stored
    status, printed = run("judge", folder / "run")
    assert (status, "ACCEPTED" in printed.out) == (0, True)
    (folder / "strict.toml").write_text(SUITE.replace("at_most = 10", "at_most = 1e-9"))
    status, printed = run("judge", folder / "run", "--suite", folder / "strict.toml")
    assert (status, "REJECTED" in printed.out) == (1, True)
    (folder / "more.toml").write_text(SUITE.replace("m = 16", "m = [16, 17]"))
    status, printed = run("judge", folder / "run", "--suite", folder / "more.toml")
    assert (status, "INCOMPLETE" in printed.out) == (3, True)


def test_a_stored_run_is_reported_again_in_one_format(stored, run, tmp_path):
    folder, _ = stored
    status, printed = run("report", folder / "run", "--format", "junit", "--out", tmp_path)
    assert status == 0
    assert printed.out.strip() == str(tmp_path / "junit.xml")


def test_a_run_folder_is_not_overwritten_and_a_finished_run_resumes_to_the_same_answer(stored, run, monkeypatch):
    folder, _ = stored
    monkeypatch.chdir(folder)
    status, printed = run("accept", "tiny.toml", "--out", "run")
    assert (status, "already holds a run" in printed.err) == (3, True)
    before = (folder / "run" / "records.jsonl").read_bytes()
    status, printed = run("accept", "--resume", "run")
    assert (status, "ACCEPTED" in printed.out) == (0, True)
    assert (folder / "run" / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("accept", "nonsense"), "no bundled suite"),
        (("plan", "nonsense.toml"), "there is no such suite file"),
        (("accept", "--ranks", "0"), "0 is not in the range"),
        (("accept", "--resume", "x", "--out", "y"), "leave --out away"),
        (("nonsense",), "No such command"),
        (("bench", "nonsense"), "No such command"),
        (("bench", "allreduce", "-b", "many"), "is no size"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(run, arguments, sentence):
    status, printed = run(*arguments)
    assert status == 2
    assert sentence in printed.err
    assert "Traceback" not in printed.err


def test_a_run_that_does_not_exist_is_status_3(run, tmp_path):
    status, printed = run("judge", tmp_path)
    assert status == 3
    assert "is no run folder" in printed.err


def test_plan_prints_and_runs_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    status, printed = run("plan", "tiny.toml")
    assert status == 0
    assert "1. matmul: workload kernel" in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_list_prints_what_the_folders_hold(run):
    status, printed = run("list", "--status")
    assert status == 0
    for name in ("matmul", "attention", "numba", "quick", "kernel", "mpiexec", "inline", "junit.xml"):
        assert name in printed.out


def test_info_is_the_machine_of_a_record(run):
    status, printed = run("info", "--json")
    assert status == 0
    assert json.loads(printed.out)["cores"] >= 1
    assert run("info")[0] == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['pyhpc', '--help']\nfrom pyhpc.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(sorted({'numpy', 'pydantic', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
