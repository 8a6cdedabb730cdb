"""Runs tests/mpi on worlds of 1 to 8 ranks, on the MPI that is installed and on Open MPI."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "mpi"
TIMEOUT_SECONDS = 300

# Worlds of these ranks run all tests, the others those marked "any_world".
ALL = {"installed": (1, 2, 3), "open_mpi": (2,)}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_the_mpi_tests_pass_on_every_rank(start, mpi, run_pytest, ranks):
    words = [*run_pytest, TESTS]
    if ranks not in ALL[mpi]:
        words += ["-m", "any_world"]
    status, said = start(ranks, words, TIMEOUT_SECONDS)
    assert status == 0, said
    assert said.count(" passed") == ranks, said
