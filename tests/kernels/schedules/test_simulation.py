"""Prices against SimGrid, which plays the very same schedules: benchmarks/simulate_allreduce.py at a small size."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from pyhpc.kernels.schedules.price import price
from pyhpc.kernels.schedules.schedule import algorithms

FILE = Path(__file__).parents[3] / "benchmarks" / "simulate_allreduce.py"
RANKS, SIZES = 64, (1024, 1 << 20)


@pytest.fixture(scope="module")
def simulation():
    specification = importlib.util.spec_from_file_location("simulate_allreduce", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulator(simulation, tmp_path_factory):
    if shutil.which("smpirun") is None:
        pytest.skip("smpirun is not here: SimGrid (Debian: libsimgrid-dev) is not installed")
    return simulation.Simulator(simulation.fat_tree(RANKS), tmp_path_factory.mktemp("simulation"))


def test_the_price_is_calibrated_by_simulated_messages_to_what_the_platform_says(simulation, simulator):
    found, said = simulation.calibrated(simulator, RANKS), simulator.topology
    for one, other in zip(found.levels, said.levels, strict=True):
        assert one.link_seconds == pytest.approx(other.link_seconds, rel=5e-3)
        assert one.link_bytes_per_second == pytest.approx(other.link_bytes_per_second, rel=5e-3)


def test_prices_agree_with_the_simulation_of_a_fat_tree_in_time_and_in_rank(simulation, simulator):
    chosen = [a for a in simulation.contestants(RANKS).values() if a.name not in ("ring", "segmented_ring")]
    simulated = np.array([simulator.seconds(algorithm, RANKS, SIZES) for algorithm in chosen])
    priced = np.array([price(algorithm, RANKS, SIZES, simulator.topology) for algorithm in chosen])
    assert priced == pytest.approx(simulated, rel=0.15)
    for column in range(len(SIZES)):
        assert simulation.kendall(simulated[:, column], priced[:, column]) >= 0.9


def test_what_is_played_is_the_schedule(simulation):
    ring = algorithms()["ring"]
    numbers = np.frombuffer(simulation.written(ring, 3), "<i4")
    assert numbers[:6].tolist() == [3, 3, 0, 8, 16, 24]
    assert numbers[6:16].tolist() == [0, 0, 1, 0, 1, 0, 1, 2, 2, 3]  # rank 0 sends chunk 0 to 1, combines 2 from 2


def test_kendall_counts_pairs_in_order_and_leaves_out_what_is_equal(simulation):
    assert simulation.kendall([1, 2, 3], [10, 20, 30]) == 1
    assert simulation.kendall([1, 2, 3], [30, 20, 10]) == -1
    assert simulation.kendall([1, 2, 3], [10, 30, 20]) == pytest.approx(1 / 3)
    assert simulation.kendall([1, 1.001, 3], [20, 10, 30]) == 1
