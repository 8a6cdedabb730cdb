from __future__ import annotations

from pathlib import Path

import pytest

import pyhpc.kernels.schedules as folder
from pyhpc.kernels.schedules.schedule import Model, algorithms, bounds, cheapest


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


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 17])
def test_short_vectors_travel_whole_in_few_messages_and_long_ones_in_the_least_volume(ranks):
    short, long = cheapest(ranks, 8), cheapest(ranks, 1 << 30)
    assert short.path(ranks).messages == min(a.path(ranks).messages for a in algorithms().values())
    assert long.path(ranks).volume == min(a.path(ranks).volume for a in algorithms().values())


def test_the_price_is_the_textbook_formula():
    model = Model(seconds_per_message=1, seconds_per_byte=10, seconds_per_reduced_byte=100)
    assert algorithms()["ring"].seconds(4, 8, model) == pytest.approx(6 + 1.5 * 8 * 10 + 0.75 * 8 * 100)
    assert algorithms()["recursive_doubling"].seconds(4, 8, model) == pytest.approx(2 + 2 * 8 * 10 + 2 * 8 * 100)


def test_a_schedule_prints_itself_a_line_a_round_and_rank():
    lines = algorithms()["recursive_doubling"].text(2).splitlines()
    assert lines == [
        "recursive_doubling on 2 ranks, 1 chunks",
        "rank 0 round 0: send input[0:1] to 1; result[0:1] = input[0:1] op from 1",
        "rank 1 round 0: send input[0:1] to 0; result[0:1] = from 0 op input[0:1]",
    ]
