from __future__ import annotations

import pytest

from pyhpc.kernels.schedules.cheapest import cheapest, ranks_per_node
from pyhpc.kernels.schedules.price import price
from pyhpc.kernels.schedules.schedule import Model, Path, algorithms
from pyhpc.kernels.schedules.topology import Level, Topology

SIZES = [0, 8, 4096, 64 << 10, 1 << 20, 16 << 20, 1 << 30]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 17])
def test_short_vectors_travel_whole_in_few_messages_and_long_ones_in_the_least_volume(ranks):
    short, long = cheapest(ranks, 8), cheapest(ranks, 1 << 30)
    assert short.path(ranks).messages == min(a.path(ranks).messages for a in algorithms().values())
    assert long.path(ranks).volume == min(a.path(ranks).volume for a in algorithms().values())


def test_the_price_is_the_textbook_formula():
    model = Model(seconds_per_message=1, seconds_per_byte=10, seconds_per_reduced_byte=100)
    assert model.seconds(algorithms()["ring"].path(4), 8) == pytest.approx(6 + 1.5 * 8 * 10 + 0.75 * 8 * 100)
    assert model.seconds(Path(2, 2, 2), 8) == 2 + 2 * 8 * 10 + 2 * 8 * 100


@pytest.mark.parametrize(
    ("nodes", "together"),
    [
        ("a", 1),
        ("aaa", 3),
        ("aab", 2),
        ("abb", 1),
        ("aabbc", 2),
        ("abab", 1),
        ("aaaabb", 4),
        ("aabbbb", 2),
        ("aaabbb", 3),
        ("aaaaaaaab", 8),
    ],
)
def test_ranks_that_follow_each_other_on_a_node_are_counted_from_any_multiple(nodes, together):
    assert ranks_per_node(nodes) == together


@pytest.mark.parametrize("size", SIZES)
def test_without_nodes_and_inside_one_no_schedule_is_hierarchical(size):
    assert cheapest(64, size).inside is None
    assert cheapest(64, size, 64).inside is None


@pytest.mark.parametrize(("ranks", "in_node"), [(4, 2), (16, 8), (60, 8), (64, 8), (100_000, 8)])
def test_short_vectors_take_one_lane_between_nodes_and_longer_ones_one_of_each_rank(ranks, in_node):
    short, longer = cheapest(ranks, 8, in_node), cheapest(ranks, 64 << 10, in_node)
    assert short.inside is not None
    assert longer.inside is not None
    assert short.chunks(ranks) == 1
    assert longer.chunks(ranks) % in_node == 0


@pytest.mark.parametrize(("ranks", "in_node"), [(16, 8), (60, 8), (64, 16)])
def test_what_is_chosen_for_nodes_is_the_faster_one_where_every_link_is_priced(ranks, in_node):
    node = Level("node", in_node, 1, 10e9, 1e-6, inside_bytes_per_second=in_node * 10e9, inside_seconds=0.2e-6)
    topology = Topology((node, Level("switch", ranks)), message_seconds=0.1e-6, reduced_byte_seconds=1e-10)
    for size, at_most in ((8, 1.2), (4096, 0.9), (64 << 10, 1), (16 << 20, 0.8)):
        aware, unaware = (price(cheapest(ranks, size, n), ranks, [size], topology)[0] for n in (in_node, 1))
        assert aware <= at_most * unaware, size
