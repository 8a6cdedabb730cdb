"""The conditions around a measurement: clock, power, temperature, throttling, and who else used the cores.

    probe = Probe(threads=2);  …sample…;  conditions = probe.stop(pattern="normal", seed=0)

Two readings, before and after, and their difference. All from files the Linux kernel offers without privilege; what a
machine does not offer or does not let us read stays empty, and nothing is estimated in its place.

With a GPU's UUID clock, power and temperature are that GPU's (NVML), read at the two moments.

    clock         effective clock of a core from a loop of dependent multiplications (native), else cpufreq's
    power         energy of the processor packages / time between the readings (RAPL)
    temperature   hottest processor sensor (hwmon: coretemp, k10temp …; else a thermal zone of the processor)
    throttling    counters that rose in between (thermal_throttle), and the GPU's own reasons (NVML)
    others        busy time of the usable cores less our own; time stolen by the hypervisor; our wait for a core
    placement     one-way time of a cache line between two of our cores: tells how close they are just now
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from pyhpc.errors import Unsupported
from pyhpc.measure import nvml
from pyhpc.measure.measurement import Conditions
from pyhpc.native import cpu

_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "cpu-thermal", "soc_thermal")
_LATENCY_ROUNDS = 5000  # there and back: about a millisecond


@dataclass(frozen=True)
class Reading:
    """What the machine tells at one moment."""

    seconds: float  # of the monotonic clock
    clock_hertz: float | None
    energy_joules: dict[str, tuple[float, float]]  # package → energy counter, and where it wraps
    temperature_celsius: float | None
    throttle_counts: dict[str, int]  # "cpu0 core" → events so far
    load_average: float
    busy_seconds: float | None  # of all usable cores together
    stolen_seconds: float | None
    own_seconds: float  # CPU time of this process
    run_queue_seconds: float | None
    line_latency_seconds: float | None
    gpu: nvml.GpuState | None = None


@dataclass
class Probe:
    """Reads the machine when made and again at `stop`."""

    threads: int = 1
    gpu: str = ""  # UUID of the GPU measured
    root: Path = Path("/")  # another tree in tests
    before: Reading = field(init=False)

    def __post_init__(self) -> None:
        self.before = read(self.threads, self.root, self.gpu)

    def stop(self, pattern: str = "", seed: int = 0, cache: str = "warm") -> Conditions:
        """The conditions since this probe was made."""
        before, after = self.before, read(self.threads, self.root, self.gpu)
        elapsed = after.seconds - before.seconds
        capacity = elapsed * len(os.sched_getaffinity(0))
        busy = _difference(before.busy_seconds, after.busy_seconds)
        stolen = _difference(before.stolen_seconds, after.stolen_seconds)
        others = None if busy is None else max(0.0, busy - (after.own_seconds - before.own_seconds))
        boards = [reading.gpu for reading in (before, after) if reading.gpu is not None]
        places = boards if self.gpu else [before, after]
        return Conditions(
            clock_hertz=_known(*(place.clock_hertz for place in places)),
            power_watts=_known(*(board.power_watts for board in boards) if self.gpu else [power(before, after)]),
            temperature_celsius=_known(*(place.temperature_celsius for place in places)),
            throttle_reasons=throttle_reasons(before, after),
            load_average=(before.load_average, after.load_average),
            other_cpu_fraction=None if others is None else min(1.0, others / capacity),
            stolen_cpu_fraction=None if stolen is None else min(1.0, stolen / capacity),
            run_queue_seconds=_difference(before.run_queue_seconds, after.run_queue_seconds),
            line_latency_seconds=_known(before.line_latency_seconds, after.line_latency_seconds),
            pattern=pattern,
            seed=seed,
            cache=cache,
            threads=self.threads,
        )


def read(threads: int = 1, root: Path = Path("/"), gpu: str = "") -> Reading:
    """Read everything once; takes a few milliseconds."""
    busy, stolen = _processor_seconds(root)
    return Reading(
        seconds=time.monotonic(),
        clock_hertz=_clock(root),
        energy_joules=_energy(root),
        temperature_celsius=_temperature(root),
        throttle_counts=_throttle_counts(root),
        load_average=os.getloadavg()[0],
        busy_seconds=busy,
        stolen_seconds=stolen,
        own_seconds=sum(os.times()[:2]),
        run_queue_seconds=_run_queue(root),
        line_latency_seconds=line_latency() if threads > 1 else None,
        gpu=next((state for state in nvml.states() if state.uuid == gpu), None) if gpu else None,
    )


def power(before: Reading, after: Reading) -> float | None:
    """Mean power of all packages between two readings, watts."""
    used = [
        (energy - before.energy_joules[name][0]) % wrap
        for name, (energy, wrap) in after.energy_joules.items()
        if name in before.energy_joules
    ]
    elapsed = after.seconds - before.seconds
    return sum(used) / elapsed if used and elapsed > 0 else None


def throttle_reasons(before: Reading, after: Reading) -> tuple[str, ...]:
    """One phrase for each throttle counter that rose, and the GPU's reasons at either moment."""
    boards = {reason: None for reading in (before, after) if reading.gpu for reason in reading.gpu.throttle_reasons}
    counters = [
        f"{name} throttled {count - before.throttle_counts[name]} times"
        for name, count in after.throttle_counts.items()
        if count > before.throttle_counts.get(name, count)
    ]
    return (*boards, *counters)


def line_latency() -> float | None:
    """Seconds of a one-way cache-line transfer between two usable cores, or None with one core or no native module."""
    cores = sorted(os.sched_getaffinity(0))
    measure = getattr(getattr(_native(), "memory", None), "line_latency", None)
    if len(cores) < 2 or measure is None:
        return None
    return float(measure(cores[0], cores[1], _LATENCY_ROUNDS))


def _native() -> object | None:
    try:
        return cpu()
    except Unsupported:
        return None


def _clock(root: Path) -> float | None:
    effective = getattr(_native(), "effective_hertz", None)
    if root == Path("/") and effective is not None and (hertz := effective()) > 0:
        return float(hertz)
    kilohertz = [
        value
        for core in os.sched_getaffinity(0)
        if (value := _number(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")) is not None
    ]
    return sum(kilohertz) / len(kilohertz) * 1e3 if kilohertz else None


def _energy(root: Path) -> dict[str, tuple[float, float]]:
    found = {}
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        energy, wrap = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
        if zone.name.count(":") == 1 and energy is not None and wrap:  # a package, not a part of one
            found[zone.name] = (energy * 1e-6, wrap * 1e-6)
    return found


def _temperature(root: Path) -> float | None:
    millidegrees = [
        _number(sensor)
        for chip in (root / "sys/class/hwmon").glob("hwmon*")
        if _text(chip / "name") in _SENSORS
        for sensor in chip.glob("temp*_input")
    ] or [
        _number(zone / "temp")
        for zone in (root / "sys/class/thermal").glob("thermal_zone*")
        if (_text(zone / "type") or "") in _SENSORS
    ]
    known = [value for value in millidegrees if value is not None]
    return max(known) * 1e-3 if known else None


def _throttle_counts(root: Path) -> dict[str, int]:
    counts = {}
    for core in sorted(os.sched_getaffinity(0)):
        for what in ("core", "package"):
            count = _number(root / f"sys/devices/system/cpu/cpu{core}/thermal_throttle/{what}_throttle_count")
            if count is not None:
                counts[f"cpu{core} {what}"] = int(count)
    return counts


def _processor_seconds(root: Path) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of the usable cores since boot."""
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [words for line in (_text(root / "proc/stat") or "").splitlines() if (words := line.split())[0] in names]
    if not rows:
        return None, None
    tick = os.sysconf("SC_CLK_TCK")
    # user nice system idle iowait irq softirq steal guest guest_nice; guest is contained in user
    busy = sum(int(row[column]) for row in rows for column in (1, 2, 3, 6, 7)) / tick
    stolen = sum(int(row[8]) for row in rows if len(row) > 8) / tick
    return busy, stolen


def _run_queue(root: Path) -> float | None:
    """Seconds that all threads of this process together have waited for a core."""
    waits = [
        int(text.split()[1])
        for task in (root / "proc/self/task").glob("*")
        if (text := _text(task / "schedstat")) and len(text.split()) == 3
    ]
    return sum(waits) * 1e-9 if waits else None


def _text(path: Path) -> str | None:
    """The file's text, or None: absent, or not for us to read. That is an answer here, not a failure."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text and text.lstrip("-").isdecimal() else None


def _difference(before: float | None, after: float | None) -> float | None:
    # A thread that ended takes its run-queue time along: never below zero.
    return None if before is None or after is None else max(0.0, after - before)


def _known(*values: float | None) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)
