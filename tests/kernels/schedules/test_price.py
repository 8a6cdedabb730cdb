"""Prices against what can be worked out by hand, and the ways of pricing against each other."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.schedules.hierarchical import hierarchical
from pyhpc.kernels.schedules.price import price
from pyhpc.kernels.schedules.schedule import algorithms
from pyhpc.kernels.schedules.topology import CLUSTER, Level, Topology, load, of

FLAT = Topology(
    (Level("node", 1, 1, 1e9, 1e-6), Level("switch", 1 << 20)), message_seconds=1e-7, reduced_byte_seconds=1e-10
)


@pytest.mark.parametrize("name", ["recursive_doubling", "halving_doubling", "ring", "bine", "segmented_ring"])
@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
def test_without_contention_the_price_is_the_textbook_formula(name, ranks):
    path, size = algorithms()[name].path(ranks), 1 << 20
    # Two links, one up and one down; segments of a step travel at the same time and are combined afterwards.
    steps = 2 * (ranks - 1) if name == "segmented_ring" else path.messages
    seconds = steps * 2e-6 + path.messages * 1e-7 + path.volume * size / 1e9 + path.reduced * size * 1e-10
    assert price(algorithms()[name], ranks, [size], FLAT) == [pytest.approx(seconds)]


def test_messages_that_share_a_link_share_its_rate():
    leaf = Topology((Level("node", 1, 1, 1e9), Level("leaf", 4, 1, 1e9), Level("spine", 8)))
    doubling = algorithms()["recursive_doubling"]
    assert price(doubling, 4, [1e9], leaf) == [pytest.approx(2)]
    assert price(doubling, 8, [1e9], leaf) == [pytest.approx(2 + 4)]  # four ranks at once over one uplink
    wider = dataclasses.replace(
        leaf, levels=(leaf.levels[0], dataclasses.replace(leaf.levels[1], links=2), Level("s", 8))
    )
    assert price(doubling, 8, [1e9], wider) == [pytest.approx(2 + 2)]


def test_ranks_of_a_node_share_its_memory_and_its_cards():
    def node(cards):
        return Topology((Level("node", 4, cards, 1e9, inside_bytes_per_second=4e9), Level("switch", 8)))

    doubling = algorithms()["recursive_doubling"]
    assert price(doubling, 4, [1e9], node(1)) == [pytest.approx(2 * 4 / 4)]
    assert price(doubling, 8, [1e9], node(1)) == [pytest.approx(2 * 4 / 4 + 4)]
    assert price(doubling, 8, [1e9], node(4)) == [pytest.approx(2 * 4 / 4 + 1)]


def test_the_hierarchy_beats_the_flat_algorithm_where_the_network_is_slow():
    slow = Topology((Level("node", 8, 1, 1e9, 5e-6, inside_bytes_per_second=1e11), Level("switch", 64)))
    nodes = hierarchical(8)
    (tree,), (flat,) = (price(a, 512, [1 << 24], slow) for a in (nodes, algorithms()["recursive_doubling"]))
    assert tree < flat / 5


@pytest.mark.parametrize("name", ["ring", "segmented_ring"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 50, 97, 128])
def test_a_few_alike_steps_stand_for_all_of_them(name, ranks):
    algorithm = algorithms()[name]
    every_step = price(dataclasses.replace(algorithm, runs=None), ranks, [0, 1000, 1e6], CLUSTER)
    assert price(algorithm, ranks, [0, 1000, 1e6], CLUSTER) == pytest.approx(every_step)


def test_a_logarithmic_schedule_and_a_ring_are_priced_on_100_000_ranks():
    (halving,), (ring,) = (price(algorithms()[name], 100_000, [1 << 20], CLUSTER) for name in ("bine", "ring"))
    assert 1e-5 < halving < ring < 10


def test_more_ranks_than_places_and_more_messages_than_can_be_looked_at_are_refused():
    with pytest.raises(InvalidArgument, match="8 places, and there are 9 ranks"):
        price(algorithms()["ring"], 9, [8], Topology((Level("node", 8),)))
    with pytest.raises(InvalidArgument, match="too many to price"):
        price(algorithms()["direct"], 100_000, [8], CLUSTER)


TOML = """message_seconds = 3e-7
[[levels]]
name = "node"
members = 4
links = 2
link_bytes_per_second = 25e9
[[levels]]
name = "spine"
members = 100
"""


def test_a_topology_is_read_from_toml_and_json(tmp_path):
    (tmp_path / "a.toml").write_text(TOML)
    read = load(tmp_path / "a.toml")
    assert read == Topology((Level("node", 4, 2, 25e9), Level("spine", 100)), message_seconds=3e-7)
    assert read.ranks_per_node == 4
    (tmp_path / "a.json").write_text(json.dumps(dataclasses.asdict(read), default=str).replace("Infinity", "1e999"))
    assert load(tmp_path / "a.json") == read
    assert math.isinf(read.levels[1].link_bytes_per_second)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "at least one"),
        ({"levels": [{"name": "node"}]}, "members"),
        ({"levels": [{"name": "node", "members": 0}]}, "members is 0"),
        ({"levels": [{"name": "node", "members": 2, "link_bytes_per_second": 0}]}, "link_bytes_per_second is 0"),
        ({"levels": [{"name": "node", "members": 2, "spread": "evenly"}]}, "spread is 'evenly'"),
        ({"levels": [{"name": "node", "members": 2}], "latency": 1}, "latency"),
        ({"levels": [{"name": "node", "members": 2}], "message_seconds": "1"}, "message_seconds is '1'"),
    ],
)
def test_a_wrong_topology_is_refused_by_name(table, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        of(table)


def test_a_topology_that_cannot_be_read_is_told_with_its_file(tmp_path):
    with pytest.raises(InvalidArgument, match=r"none\.toml"):
        load(tmp_path / "none.toml")
