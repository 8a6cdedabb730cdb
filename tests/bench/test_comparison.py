"""Figures from rounds: ratios inside a round, the binding ceiling, and nothing from a contestant that failed."""

from __future__ import annotations

import pytest

from pyhpc.bench.comparison import Comparison, summarise
from pyhpc.machine import probe


def test_the_value_of_a_contestant_is_the_median_of_its_round_medians(row, steady):
    (found,) = summarise([row("ours", "ours", dict(enumerate([1.0, 5.0, 2.0, 3.0, 4.0, 7.0, 6.0])))], 0)
    assert (found.seconds.value, found.seconds.low, found.seconds.high) == (4.0, 1.0, 7.0)
    assert found.rate == 250
    assert found.rate_bounds == (1000 / 7.0, 1000.0)


def test_fewer_than_six_rounds_give_a_value_and_no_interval(row, steady):
    (found,) = summarise([row("ours", "ours", steady(2.0, 5))], 0)
    assert found.seconds.value == 2.0
    assert found.seconds.low is None
    assert found.rate_bounds is None


def test_a_speedup_is_formed_inside_each_round_so_that_a_drifting_clock_cancels(row, steady):
    drift = {index: 1.0 + index for index in range(7)}
    ours = row("ours", "ours", {index: seconds / 2 for index, seconds in drift.items()})
    found, best, worse = summarise([ours, row("numpy", "peer", drift), row("torch", "peer", steady(99.0))], 0)
    assert found.best_peer == "numpy"
    assert (found.speedup.value, found.speedup.low, found.speedup.high) == (2.0, 2.0, 2.0)
    assert best.speedup.value == 1.0
    assert worse.speedup.value < 1


def test_a_failed_peer_is_nobodys_best_and_gets_no_figures(row, steady):
    failed = row("numpy", "peer", steady(0.001, 3), error="died")
    ours, peer = summarise([row("ours", "ours", steady(1.0)), failed], 0)
    assert ours.speedup is None
    assert ours.best_peer == ""
    assert peer == failed
    assert peer.rate is None


def test_the_limit_is_the_ceiling_that_allows_least(row, steady):
    peak = row("peak", "ceiling", steady(1.0), flops=2000, kernel="peak")  # 0.5 s for our 1000
    memory = row("memory", "ceiling", steady(1.0), size=1000, kernel="memory")
    compute, *_ = summarise([row("ours", "ours", steady(1.0), size=100), peak, memory], 50)
    assert (compute.limit, compute.of_limit.value) == ("peak float32", 0.5)
    bound, *_ = summarise([row("ours", "ours", steady(1.0), size=800), peak, memory], 50)
    assert (bound.limit, bound.of_limit.value) == ("memory float32", pytest.approx(0.8))
    cached, *_ = summarise([row("ours", "ours", steady(1.0), size=800), peak, memory], 800)
    assert cached.limit == "peak float32"  # what fits the cache is not bound by the memory


def test_rounds_that_only_one_side_has_are_left_out_of_the_ratio(row, steady):
    ours, _ = summarise([row("ours", "ours", steady(1.0, 3)), row("numpy", "peer", {2: 4.0, 3: 9.0})], 0)
    assert ours.speedup.value == 4.0
    assert ours.speedup.samples == 1


def test_placement_is_the_median_over_the_rounds_and_absent_on_one_core(row, steady):
    assert row("ours", "ours", steady(1.0), latency=(1e-7, 3e-7)).line_latency_seconds == pytest.approx(2e-7)
    assert row("ours", "ours", steady(1.0)).line_latency_seconds is None


def test_a_comparison_survives_json_and_groups_ceilings_with_their_problem(row, steady):
    rows = summarise([row("ours", "ours", steady(1.0)), row("peak", "ceiling", steady(1.0), kernel="peak")], 0)
    found = Comparison(
        kernel="matmul", machine=probe(), contestants=("best",), rounds=7, started=1.0, finished=2.0, rows=tuple(rows)
    )
    assert Comparison.model_validate_json(found.model_dump_json()) == found
    assert list(found.groups()) == [(1, "float32")]
    assert len(found.groups()[1, "float32"]) == 2


def test_a_gpu_is_not_held_against_the_ceilings_of_the_processor(row, steady):
    peak = row("peak", "ceiling", steady(1.0), flops=2000, kernel="peak")
    on_gpu = row("sm80", "ours", steady(0.01)).model_copy(update={"device": "cuda:0 NVIDIA H200 GPU-1"})
    found, _ = summarise([on_gpu, peak], 0)
    assert found.seconds.value == 0.01
    assert found.of_limit is None
