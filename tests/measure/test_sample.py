"""Sampling on a scripted clock: what is timed, what is not, when it stops, and that nothing is lost."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import pytest

from pyhpc.errors import MeasurementError
from pyhpc.measure.measurement import Sampling
from pyhpc.measure.sample import sample


@dataclass
class ScriptedClock:
    """Answers `durations` in turn (the last one for ever) and writes down what happens to it."""

    durations: list[float]
    answers: list[float] = field(default_factory=list)
    resolution_seconds: float = 1e-9
    cost_seconds: float = 1e-9
    call_seconds: float = 5e-8
    events: list[str] = field(default_factory=list)

    def time(self, call, count):
        self.events.append(f"time {count}")
        for _ in range(min(count, 3)):
            call()
        self.answers.append(self.durations[min(len(self.answers), len(self.durations) - 1)])
        return self.answers[-1] * count

    def evict(self):
        self.events.append("evict")


RULES = Sampling(min_samples=10, max_samples=200, budget_seconds=0.5, relative_width=0.02)


def take(clock, rules=RULES, check=lambda: True, agree=None, prepare=lambda: None):
    return sample(lambda: clock.events.append("call"), prepare, check, rules, clock, agree)


def test_every_sample_is_prepared_then_timed_then_checked():
    clock = ScriptedClock([1e-3])
    done = take(
        clock,
        check=lambda: clock.events.append("check") is None,
        prepare=lambda: clock.events.append("prepare"),
    )
    sampled = clock.events[done.warm_up * 3 :]  # a warm-up execution is prepare, time, call
    assert sampled == ["prepare", "time 1", "call", "check"] * len(done.seconds)
    assert clock.events[: done.warm_up * 3] == ["prepare", "time 1", "call"] * done.warm_up


def test_constant_times_stop_at_the_smallest_count_by_width():
    done = take(ScriptedClock([1e-3]))
    assert (done.stopped, len(done.seconds), done.steady, done.wrong) == ("width", 10, True, ())
    assert set(done.seconds) == {1e-3}


def test_a_warm_up_lasts_until_two_windows_agree():
    settled = take(ScriptedClock([9e-3, 8e-3, 8e-3, 8e-3, 4e-3, 4e-3, 4e-3, 2e-3, 2e-3, 2e-3, 1e-3]), Sampling())
    assert settled.steady
    assert set(settled.seconds) == {1e-3}
    assert settled.warm_up > 10


def test_a_call_that_never_settles_is_sampled_all_the_same_and_called_unsteady():
    times = [1e-3 * 1.2**k for k in range(60)]
    rules = Sampling(min_samples=3, max_samples=3, budget_seconds=1e-4)
    done = take(ScriptedClock(times), rules)
    assert not done.steady
    assert len(done.seconds) == 3


def test_noise_goes_on_to_the_largest_count_and_keeps_every_sample_in_order():
    clock = ScriptedClock([1e-3, 3e-3] * 50_000)
    done = take(clock, Sampling(max_samples=57, budget_seconds=60))
    assert done.stopped == "max_samples"
    assert len(done.seconds) == 57
    assert list(done.seconds) == clock.answers[done.warm_up :]


def test_a_spent_budget_stops_but_never_before_the_smallest_count():
    done = take(ScriptedClock([1e-3, 3e-3] * 50_000), Sampling(min_samples=12, budget_seconds=1e-9))
    assert (done.stopped, len(done.seconds)) == ("budget", 12)


@pytest.mark.parametrize(("seconds", "batch"), [(1e-9, 200), (1e-8, 20), (1e-6, 1), (1.0, 1)])
def test_short_calls_are_batched_until_the_clock_costs_one_per_cent(seconds, batch):
    clock = ScriptedClock([seconds])
    done = take(clock)
    assert done.batch == batch
    assert clock.events.count(f"time {batch}") >= len(done.seconds)
    assert done.seconds[0] == pytest.approx(seconds)


def test_cold_samples_are_evicted_each_time_and_never_batched():
    clock = ScriptedClock([1e-9])
    done = take(clock, Sampling(cache="cold", max_samples=12, budget_seconds=0.1))
    assert done.batch == 1
    assert clock.events.count("evict") == done.warm_up + len(done.seconds)
    assert clock.events[:2] == ["evict", "time 1"]


def test_wrong_results_are_counted_by_sample_and_do_not_stop_the_sampling():
    verdicts = iter([True, False, True, False] + [True] * 100)
    done = take(ScriptedClock([1e-3]), check=lambda: next(verdicts))
    assert done.wrong == (1, 3)
    assert len(done.seconds) == 10


def test_a_clock_that_shows_no_time_is_an_error_and_not_an_infinite_rate():
    with pytest.raises(MeasurementError, match="nothing was timed"):
        take(ScriptedClock([0.0]), Sampling(min_samples=3, max_samples=3))


@pytest.mark.parametrize("patience", [11, 40, 400, 1500])
def test_ranks_stop_only_when_the_last_one_is_satisfied(patience):
    taken: list[int] = []

    def agree(value):  # the other rank is not satisfied with fewer samples
        return max(value, 1.0) if value in (0.0, 1.0) and 0 < len(taken) < patience else value

    done = take(ScriptedClock([1e-3]), Sampling(budget_seconds=30), lambda: taken.append(1) is None, agree)
    assert done.stopped == "width"
    assert patience <= len(done.seconds) <= 1 + 1.1 * patience


def test_the_garbage_collector_rests_while_sampling_and_works_again_after():
    seen = []
    take(ScriptedClock([1e-3]), check=lambda: seen.append(gc.isenabled()) is None)
    assert not any(seen)
    assert gc.isenabled()


def test_what_the_call_raises_comes_out_and_the_collector_works_again():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sample(fail, lambda: None, lambda: True)
    assert gc.isenabled()
