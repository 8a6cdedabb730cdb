"""The host's clock tells its own limits, and does what it says."""

from __future__ import annotations

import os

from pyhpc.measure import cache
from pyhpc.measure.clock import host_clock


def test_host_clock_states_resolution_and_costs_of_this_machine():
    clock = host_clock()
    assert 0 < clock.resolution_seconds < 1e-3
    assert 0 < clock.cost_seconds < 1e-3
    assert 0 < clock.call_seconds < 1e-3


def test_host_clock_makes_exactly_the_calls_it_is_asked_for():
    calls = []
    assert host_clock().time(lambda: calls.append(1), 7) > 0
    assert len(calls) == 7
    host_clock().time(lambda: calls.append(1), 0)
    assert len(calls) == 7


def test_evicting_streams_through_twice_the_caches_on_every_core_and_leaves_the_caller_unbound(monkeypatch):
    before = os.sched_getaffinity(0)
    streamed = {}
    stream = cache._stream
    monkeypatch.setattr(cache, "_stream", lambda core, size: (streamed.__setitem__(core, size), stream(core, size)))
    cache.evict_caches()
    assert set(streamed) == before == os.sched_getaffinity(0)
    sizes = cache.cache_bytes()
    assert all(size >= 2 * sizes.get("l2", 0) for size in streamed.values())
    assert sum(streamed.values()) >= 2 * sizes.get("l3", 1)
    assert all(cache._buffer(core, size)[0] >= 1 for core, size in streamed.items())  # it was written


def test_cache_sizes_grow_with_the_level():
    sizes = cache.cache_bytes()
    levels = [sizes[name] for name in ("l1d", "l2", "l3") if name in sizes]
    assert levels == sorted(levels)
    assert all(size > 0 for size in levels)
