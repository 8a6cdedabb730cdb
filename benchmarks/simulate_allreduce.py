"""The price of schedules beside a simulation of them: SimGrid plays the very same schedules, on the same fat tree.

    python benchmarks/simulate_allreduce.py [--ranks 256] [--sizes 1024,65536,1048576,16777216] [--json FILE]

Needs Debian's libsimgrid-dev (smpicxx, smpirun). The simulation is a fluid model: messages that share links get max-min
fair rates at every moment, each rank goes on as soon as its own messages allow. The price knows only the bytes on each
link in a step. Both get their numbers from one Topology; the price's link times and rates are first calibrated against
simulated messages between neighbours and across the spine. Computation is not simulated: the time of a reduction is
injected.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from pyhpc.kernels.schedules.hierarchical import hierarchical
from pyhpc.kernels.schedules.price import price
from pyhpc.kernels.schedules.schedule import NOBODY, Algorithm, Copy, Reduce, Send, algorithms, where
from pyhpc.kernels.schedules.schedule import Path as Formula
from pyhpc.kernels.schedules.topology import Level, Topology

PLAYER = Path(__file__).with_suffix(".cpp")
# A fluid network without correction factors, acknowledgements or TCP windows: what the price models too.
SETTINGS = {
    "smpi/simulate-computation": "no",
    "smpi/send-is-detached-thresh": "0",
    "smpi/privatization": "no",
    "smpi/wtime": "0",
    "smpi/shared-malloc-blocksize": str(1 << 27),  # one mapping a buffer: a process may have 65 530
    "network/model": "CM02",
    "network/TCP-gamma": "0",
    "network/crosstraffic": "0",
    "surf/precision": "1e-11",
    "maxmin/precision": "1e-9",
    "contexts/stack-size": "128",
}


def fat_tree(ranks: int) -> Topology:
    """√p hosts of one rank on each of √p leaf switches, with half as many uplinks: 100 Gbit/s, 200 ns a link."""
    hosts = 1 << ((ranks.bit_length() - 1) // 2)
    leaf = Level("leaf", hosts, max(1, hosts // 2), 12.5e9, 200e-9, spread="pair")
    return Topology((Level("node", 1, 1, 12.5e9, 500e-9), leaf, Level("spine", ranks // hosts)), 300e-9, 1 / 10e9)


def platform(topology: Topology) -> str:
    """SimGrid's description of a topology of hosts of one rank, leaf switches and a spine."""
    node, leaf, spine = topology.levels
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">']
    lines += ['<platform version="4.1">', '<zone id="world" routing="Full">']
    link = '<link id="{}" bandwidth="{}Bps" latency="{}s"/>'
    for number in range(spine.members):
        first = number * leaf.members
        lines.append(
            f'<cluster id="leaf{number}" prefix="host" suffix="" radical="{first}-{first + leaf.members - 1}" '
            f'speed="1Gf" bw="{node.link_bytes_per_second}Bps" lat="{node.link_seconds}s" '
            f'sharing_policy="SPLITDUPLEX" router_id="router{number}"/>'
        )
    for number in range(spine.members):
        for way in ("up", "down"):
            names = (f"{way}{number}_{which}" for which in range(leaf.links))
            lines += [link.format(name, leaf.link_bytes_per_second, leaf.link_seconds) for name in names]
    for a in range(spine.members):
        for b in range(spine.members):
            if a != b:
                which = (a + b) % leaf.links
                lines.append(
                    f'<zoneRoute src="leaf{a}" dst="leaf{b}" gw_src="router{a}" gw_dst="router{b}" symmetrical="NO">'
                    f'<link_ctn id="up{a}_{which}"/><link_ctn id="down{b}_{which}"/></zoneRoute>'
                )
    return "\n".join([*lines, "</zone>", "</platform>"])


def written(algorithm: Algorithm, ranks: int) -> bytes:
    """The schedule of all ranks as the player reads it."""
    actions: list[int] = []
    offsets = [0]
    for rank in range(ranks):
        for number, now in enumerate(algorithm.rounds(rank, ranks)):
            for action in now:
                kind = 0 if isinstance(action, Send) else 1 if isinstance(action, Reduce) else 2
                before = action.before if isinstance(action, Reduce) else ()
                for peer in (*before, action.peer):
                    actions += [number, kind, peer, *action.chunks]
        offsets.append(len(actions) // 5)
    return np.array([ranks, algorithm.chunks(ranks), *offsets, *actions], "<i4").tobytes()


class Simulator:
    """The player, compiled, on one platform."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self.topology, self.folder = topology, folder
        self.player = folder / "player"
        command = ["smpicxx", "-O1", "-std=c++17", str(PLAYER), "-o", str(self.player)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (folder / "platform.xml").write_text(platform(topology))
        hosts = math.prod(level.members for level in topology.levels)
        (folder / "hosts").write_text("".join(f"host{number}\n" for number in range(hosts)))

    def seconds(self, algorithm: Algorithm, ranks: int, sizes_bytes: Sequence[int]) -> list[float]:
        """The simulated time of each size."""
        (self.folder / "schedule").write_bytes(written(algorithm, ranks))
        costs = (self.topology.message_seconds, self.topology.reduced_byte_seconds)
        command = ["smpirun", "-np", str(ranks), "-platform", "platform.xml", "-hostfile", "hosts"]
        command += [f"--cfg={name}:{value}" for name, value in SETTINGS.items()]
        command += ["--log=root.thresh:warning", str(self.player), "schedule", *map(str, (*costs, *sizes_bytes))]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
        return [float(found[str(size)]) for size in sizes_bytes]


def ping(peer: int) -> Algorithm:
    """One message from rank 0 to `peer`, as a schedule of one chunk."""

    def steps(rank, ranks):
        yield Send(where(rank == 0, peer, NOBODY), (0, 1), "input"), Copy(where(rank == peer, 0, NOBODY), (0, 1))

    return Algorithm("ping", "", lambda p: 1, steps, lambda p: Formula(1, 1, 0), lambda p: 1, lambda p: 1.0)


def calibrated(simulator: Simulator, ranks: int) -> Topology:
    """The topology with the link times and rates that messages to a neighbour and across the spine show."""
    node, leaf, spine = simulator.topology.levels
    short, long = 1, 1 << 26
    near, far = (simulator.seconds(ping(peer), ranks, (short, long)) for peer in (1, ranks - 1))
    inside, across = (low - simulator.topology.message_seconds for low in (near[0], far[0]))
    rates = [(long - short) / (times[1] - times[0]) for times in (near, far)]
    node = replace(node, link_seconds=inside / 2, link_bytes_per_second=rates[0])
    # The slower of the two kinds of link shows across the spine; where they are alike one rate does for both.
    leaf = replace(leaf, link_seconds=(across - inside) / 2, link_bytes_per_second=rates[1])
    return replace(simulator.topology, levels=(node, leaf, spine))


def kendall(one: Sequence[float], other: Sequence[float], equal: float = 0.01) -> float:
    """Kendall's rank correlation; a pair that either ranking holds for equal (within 1 %) is left out."""
    pairs = [
        (a[0] - b[0]) * (a[1] - b[1])
        for a, b in combinations(zip(one, other, strict=True), 2)
        if all(abs(x - y) > equal * min(x, y) for x, y in zip(a, b, strict=True))
    ]
    return float(np.sign(pairs).mean()) if pairs else 1.0


def contestants(ranks: int) -> dict[str, Algorithm]:
    """All algorithms at up to 256 ranks; those of few messages beyond, lest the simulation take hours."""
    many = () if ranks <= 256 else ("ring", "segmented_ring", "double_binary_tree")
    found = {n: a for n, a in algorithms().items() if n not in ("direct", "hierarchical", *many)}
    hosts = fat_tree(ranks).levels[1].members
    return found | {"hierarchical, all leaders": hierarchical(hosts), "hierarchical, 4 leaders": hierarchical(hosts, 4)}


def compare(ranks: int, sizes_bytes: Sequence[int], folder: Path) -> dict[str, object]:
    """The table: simulated and priced seconds of every algorithm and size; rank correlations; the largest error."""
    simulator = Simulator(fat_tree(ranks), folder)
    topology = calibrated(simulator, ranks)
    simulated, priced = {}, {}
    for name, algorithm in contestants(ranks).items():
        began = time.perf_counter()
        simulated[name] = simulator.seconds(algorithm, ranks, sizes_bytes)
        priced[name] = price(algorithm, ranks, sizes_bytes, topology)
        figures = (f"{s * 1e6:.1f}/{p * 1e6:.1f}" for s, p in zip(simulated[name], priced[name], strict=True))
        print(f"{ranks:5d} {name:26s} {'  '.join(figures)} us   ({time.perf_counter() - began:.0f} s)", flush=True)
    columns = [list(zip(*table.values(), strict=True)) for table in (simulated, priced)]
    taus = [round(kendall(one, other), 3) for one, other in zip(*columns, strict=True)]
    errors = {name: [p / s - 1 for s, p in zip(simulated[name], priced[name], strict=True)] for name in simulated}
    print(f"{ranks:5d} Kendall {taus}; error at most {max(abs(e) for row in errors.values() for e in row):.1%}")
    return {"ranks": ranks, "sizes": list(sizes_bytes), "simulated": simulated, "priced": priced, "kendall": taus}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="256")
    parser.add_argument("--sizes", default="1024,65536,1048576,16777216")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("smpirun") is None:
        raise SystemExit("smpirun is not here: install SimGrid (Debian: libsimgrid-dev)")
    sizes = [int(size) for size in options.sizes.split(",")]
    found = []
    for ranks in map(int, options.ranks.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(ranks, sizes, Path(folder)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
