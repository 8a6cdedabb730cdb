from __future__ import annotations

from pathlib import Path

import pytest

import pyhpc.kernels.schedules as folder
from pyhpc.kernels.schedules.schedule import algorithms, bounds


def test_every_file_with_an_algorithm_is_listed():
    files = {path.stem for path in Path(folder.__path__[0]).glob("*.py") if "\nALGORITHM" in path.read_text()}
    assert {algorithm.name for algorithm in algorithms().values()} == files


@pytest.mark.parametrize("elements", [0, 1, 15, 16, 17, 1000, 4096, 4097])
@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
def test_chunks_cover_the_vector_in_order_and_begin_on_cache_lines(elements, chunks):
    edges = bounds(elements, chunks, 16)
    assert edges[0] == 0
    assert edges[-1] == elements
    assert list(edges) == sorted(edges)
    assert len(edges) == chunks + 1
    assert all(edge % 16 == 0 or edge == elements for edge in edges)


def test_a_schedule_prints_itself_a_line_a_round_and_rank():
    lines = algorithms()["recursive_doubling"].text(2).splitlines()
    assert lines == [
        "recursive_doubling on 2 ranks, 1 chunks",
        "rank 0 round 0: send input[0:1] to 1; result[0:1] = input[0:1] op from 1",
        "rank 1 round 0: send input[0:1] to 0; result[0:1] = from 0 op input[0:1]",
    ]
