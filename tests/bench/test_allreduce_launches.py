from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pyhpc import comm
from pyhpc.bench.allreduce_launches import Launches, cells_of, launch_all, render, short_name, wrong
from pyhpc.errors import ConfigError, MeasurementError

MPICH, OPEN_MPI = "MPICH Version: 5.0.2", "Open MPI v5.0.11, package: Open MPI"


def row(microseconds, size, share=0.5, nwrong=0):
    placement = {"time": microseconds, "share_of_bound": share, "nwrong": nwrong}
    return {
        "size": size,
        "count": size // 4,
        "type": "float",
        "redop": "sum",
        "algorithm": "direct",
        "out_of_place": placement,
        "in_place": placement,
    }


def launched(number, mpi, level, own, library, latency=60e-9, nwrong=0):
    """One launch as its ranks write it: times of "auto" and "mpi" in microseconds."""
    contestants = [
        {"algorithm": name, "cache": "warm", "results": [row(time, 1 << 20)], "out_of_bounds": {"count": nwrong}}
        for name, time in (("auto", own), ("mpi", library))
    ]
    return {
        "launch": number,
        "config": {"mpi": mpi, "thread_level": level, "line_latency_seconds": latency, "iterations": 10},
        "ranks": [{"hostname": "n1"}, {"hostname": "n1"}],
        "contestants": contestants,
        "absent": {},
    }


FOUND = [
    launched(number, mpi, "single", own + number, library + 10 * number, 60e-9 + 10e-9 * number)
    for number in range(3)
    for mpi, own, library in ((MPICH, 100, 400), (OPEN_MPI, 120, 200))
]


def test_a_figure_is_the_median_over_the_launches_of_one_mpi_and_thread_level():
    found = {(cell.mpi, cell.contestant): cell for cell in cells_of(FOUND)}
    assert set(found) == {(mpi, name) for mpi in ("MPICH 5.0.2", "Open MPI 5.0.11") for name in ("auto", "mpi")}
    assert found["MPICH 5.0.2", "auto"].seconds("in_place") == pytest.approx(101e-6)
    assert found["Open MPI 5.0.11", "mpi"].seconds("out_of_place") == pytest.approx(210e-6)


def test_the_table_has_each_mpi_beside_the_engine_and_the_ratio_to_the_fastest_of_them():
    lines = [line.split() for line in render(FOUND).splitlines() if not line.startswith("#")]
    assert [(line[1], *line[-2:]) for line in lines] == [
        ("MPICH", "2.08", "70"),
        ("MPICH", "0.51", "70"),
        ("Open", "1.74", "70"),
        ("Open", "1.00", "70"),
    ]
    assert ["auto" in line for line in lines] == [True, False] * 2


def test_wrong_elements_of_any_launch_fail_the_table():
    assert wrong(FOUND) == 0
    assert "# Out of bounds values : 0 OK" in render(FOUND)
    bad = [*FOUND, launched(3, MPICH, "single", 1, 1, nwrong=2)]
    assert wrong(bad) == 4
    assert "# Out of bounds values : 4 FAILED" in render(bad)


def test_where_only_one_mpi_was_here_the_table_says_how_to_add_another():
    assert "--mpi PATH,PATH" in render(FOUND[:1])
    assert "--mpi PATH,PATH" not in render(FOUND)


@pytest.mark.parametrize(
    ("library", "name"), [(MPICH, "MPICH 5.0.2"), (OPEN_MPI, "Open MPI 5.0.11"), ("Cray MPICH of some site", None)]
)
def test_a_library_is_named_by_its_first_words(library, name):
    assert short_name(library) == (name or library[:16])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"libraries": ("/no/libmpi.so",)}, "there is no MPI library '/no/libmpi.so'"),
        ({"thread_levels": ("double",)}, "thread level is 'double'; it must be one of single"),
        ({"launches": 0}, "launches is 0"),
    ],
)
def test_launches_that_cannot_be_are_refused(fields, sentence):
    usual = {"ranks": 2, "words": (), "launches": 1, "libraries": (), "thread_levels": ("single",)}
    with pytest.raises(ConfigError, match=sentence):
        Launches(**(usual | fields))


def test_the_combinations_take_turns_and_the_first_place_rotates(monkeypatch):
    seen = []
    monkeypatch.setattr(comm, "libraries", lambda: ["a", "b"])

    def launch(asked, library, level):
        seen.append(library + level[0])
        return {}

    monkeypatch.setattr("pyhpc.bench.allreduce_launches._launch", launch)
    found = launch_all(Launches(2, (), 2, (), ("single", "multiple")))
    assert " ".join(seen) == "as am bs bm am bs bm as"
    assert [one["launch"] for one in found] == [0] * 4 + [1] * 4


def test_ranks_that_end_without_figures_are_an_error_with_their_last_words(monkeypatch):
    monkeypatch.setattr(comm, "mpiexec_command", lambda ranks, library: [sys.executable, "-c", "exit('no such MPI')"])
    with pytest.raises(MeasurementError, match=r"thread level single ended with status 1 and said last: no such MPI"):
        launch_all(Launches(2, (), 1, (), ("single",)))


@pytest.mark.skipif(comm.mpiexec() is None, reason="there is no mpiexec")
def test_the_command_compares_two_mpis_and_writes_every_launch_as_json(tmp_path, open_mpi):
    sweep = ["-b", "8", "-e", "8", "--cache", "cold", "--iters", "2", "--warmup_iters", "1"]
    words = ["--launches", "1", "--ranks", "2", "--thread-level", "single"]
    words += ["--mpi", f"{comm.libraries()[0]},{open_mpi}", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "pyhpc", "bench", "allreduce", *sweep, *words],
        stdin=subprocess.DEVNULL,
        env=os.environ | comm.yielding_environment() | {"OMPI_MCA_mpi_yield_when_idle": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["launches"]
    assert done.stdout == render(found)
    assert {(cell.mpi.split()[0], cell.thread_level, cell.cache) for cell in cells_of(found)} == {
        ("MPICH", "single", "cold"),
        ("Open", "single", "cold"),
    }
