"""Conditions: what the machine tells is recorded, what it does not tell stays empty."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pyhpc.measure import conditions
from pyhpc.measure.conditions import Probe, power, read, throttle_reasons

CORE = min(os.sched_getaffinity(0))


@pytest.fixture
def tree(tmp_path):
    """Write files of a pretended /sys and /proc."""

    def write(values):
        for name, text in values.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return write


def test_a_machine_that_tells_nothing_gives_nothing(tree):
    found = Probe(root=tree({})).stop("normal", 3, "cold")
    assert found.clock_hertz == found.power_watts == found.temperature_celsius == found.throttle_reasons == ()
    assert found.other_cpu_fraction is None
    assert found.stolen_cpu_fraction is None
    assert found.run_queue_seconds is None
    assert (found.pattern, found.seed, found.cache, found.threads) == ("normal", 3, "cold", 1)


def test_this_machine_tells_its_load_and_cpu_shares():
    found = Probe(threads=2).stop()
    assert len(found.load_average) == 2
    assert found.other_cpu_fraction is not None
    assert 0 <= found.other_cpu_fraction <= 1
    assert found.threads == 2


def test_clock_is_the_mean_over_the_usable_cores(tree):
    base = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    root = tree({base.format(core): 2_000_000 for core in os.sched_getaffinity(0)} | {base.format(4096): 9_000_000})
    assert read(1, root).clock_hertz == pytest.approx(2e9)


def test_power_is_energy_over_time_and_survives_the_counter_wrapping(tree):
    zone = "sys/class/powercap/intel-rapl:0"
    root = tree(
        {
            f"{zone}/energy_uj": 99_000_000,
            f"{zone}/max_energy_range_uj": 100_000_000,
            "sys/class/powercap/intel-rapl:0:0/energy_uj": 1,
            "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 100_000_000,
        }
    )
    before = read(1, root)
    assert list(before.energy_joules) == ["intel-rapl:0"]
    after = replace(read(1, tree({f"{zone}/energy_uj": 4_000_000})), seconds=before.seconds + 0.5)
    assert power(before, after) == pytest.approx(5 / 0.5)


def test_an_unreadable_energy_counter_gives_no_power(tree):
    root = tree({"sys/class/powercap/intel-rapl:0/max_energy_range_uj": 100})
    assert Probe(root=root).stop().power_watts == ()


def test_temperature_is_the_hottest_processor_sensor_and_not_the_disk(tree):
    root = tree(
        {
            "sys/class/hwmon/hwmon0/name": "nvme",
            "sys/class/hwmon/hwmon0/temp1_input": 95000,
            "sys/class/hwmon/hwmon1/name": "coretemp",
            "sys/class/hwmon/hwmon1/temp1_input": 61000,
            "sys/class/hwmon/hwmon1/temp2_input": 64500,
        }
    )
    assert read(1, root).temperature_celsius == pytest.approx(64.5)


def test_a_thermal_zone_serves_where_there_is_no_sensor_chip(tree):
    root = tree({"sys/class/thermal/thermal_zone0/type": "x86_pkg_temp", "sys/class/thermal/thermal_zone0/temp": -5000})
    assert read(1, root).temperature_celsius == pytest.approx(-5.0)


def test_only_throttle_counters_that_rose_are_reasons(tree):
    base = f"sys/devices/system/cpu/cpu{CORE}/thermal_throttle"
    before = read(1, tree({f"{base}/core_throttle_count": 7, f"{base}/package_throttle_count": 2}))
    after = read(1, tree({f"{base}/core_throttle_count": 10}))
    assert throttle_reasons(before, after) == (f"cpu{CORE} core throttled 3 times",)


def test_other_processes_and_the_hypervisor_are_told_apart_from_our_own_time(tree, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {CORE})
    root = tree({"proc/stat": f"cpu 1 1 1\ncpu{CORE} 1000 0 500 9000 5 0 0 100 0 0\nintr 5"})
    probe = Probe(root=root)
    tree({"proc/stat": f"cpu 1 1 1\ncpu{CORE} 1100 0 550 9010 5 10 10 120 0 0\nintr 5"})
    tick = os.sysconf("SC_CLK_TCK")
    probe.before = replace(probe.before, seconds=probe.before.seconds - 200 / tick)
    found = probe.stop()
    assert found.other_cpu_fraction == pytest.approx(170 / 200, rel=0.05)
    assert found.stolen_cpu_fraction == pytest.approx(20 / 200, rel=0.05)


def test_waiting_for_a_core_is_summed_over_threads(tree):
    root = tree({"proc/self/task/1/schedstat": "5 1000000000 1", "proc/self/task/2/schedstat": "5 500000000 1"})
    assert read(1, root).run_queue_seconds == pytest.approx(1.5)
    probe = Probe(root=root)
    tree({"proc/self/task/2/schedstat": "5 750000000 1"})
    assert probe.stop().run_queue_seconds == pytest.approx(0.25)


def test_one_core_has_no_line_latency(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {CORE})
    assert conditions.line_latency() is None
