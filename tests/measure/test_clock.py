"""The host's clock tells its own limits, and does what it says."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace

import pytest

from pyhpc import native
from pyhpc.errors import Unsupported
from pyhpc.measure import cache
from pyhpc.measure.clock import DeviceClock, device_clock, host_clock


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


@pytest.fixture
def gpu(monkeypatch):
    """A pretended _cuda whose events stamp the order of things; the log of what it was told."""
    log, ticks = [], itertools.count()

    class Event:
        def __init__(self, device):
            self.device = device

        def record(self, stream):
            self.stamp = next(ticks)
            log.append(f"record in {stream}")

        def synchronize(self):
            log.append("synchronize")

        def seconds_since(self, start):
            return (self.stamp - start.stamp) * 1e-6

    class Memory:
        def __init__(self, size, device):
            self.size = size

        def copy_from(self, host, stream):
            assert host.nbytes == self.size
            log.append(f"write {self.size}")

    module = SimpleNamespace(Event=Event, Memory=Memory, devices=lambda: [{"l2_bytes": 50 << 20}])
    monkeypatch.setattr(native, "cuda", lambda: module)
    return log


def test_device_clock_stamps_around_the_calls_and_waits_before_it_reads(gpu):
    clock = DeviceClock(0, 7)
    assert clock.cost_seconds == pytest.approx(1e-6)
    gpu.clear()
    assert clock.time(lambda: gpu.append("call"), 2) == pytest.approx(1e-6)
    assert gpu == ["record in 7", "call", "call", "record in 7", "synchronize"]


def test_device_clock_makes_the_gpu_cold_by_writing_twice_its_cache(gpu):
    clock = DeviceClock(0, 0)
    gpu.clear()
    clock.evict()
    assert gpu == [f"write {100 << 20}"]


@pytest.mark.skipif(native.cuda_absence() is None, reason="there is a GPU")
def test_device_clock_without_a_gpu_says_why():
    with pytest.raises(Unsupported, match="absent because"):
        device_clock()


@pytest.mark.skipif(native.cuda_absence() is not None, reason=f"CUDA is absent because {native.cuda_absence()}")
def test_device_clock_of_a_real_gpu_counts_time():
    clock = device_clock()
    clock.evict()
    assert 0 <= clock.cost_seconds < 1e-3
