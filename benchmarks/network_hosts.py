"""Several hosts on one machine: network namespaces joined by a switch over slow links, and an MPI job across them.

    python benchmarks/network_hosts.py                                  # all-reduce beside the rate of the link
    python benchmarks/network_hosts.py --hosts 3 --ranks 2 -- prog.py   # any Python program on 3 hosts of 2 ranks

Each host is a namespace with a name and an address of its own; a token bucket holds its port at `--rate` each way, and
MPICH talks TCP between and inside them, as it would on machines of a cluster. Needs Linux, root, `ip`, `tc`, `unshare`
and MPICH. Nothing is left behind.

Between 2 hosts an all-reduce cannot be faster than a link: of a vector of n bytes each host sends n and receives n
(Patarasuk and Yuan, 2009: 2(k−1)/k · n bytes a host for k hosts). So n·2(k−1)/k divided by time is compared with the
rate of a plain ping-pong, timed in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyhpc import comm

# Hydra calls this as its ssh: OPTIONS ADDRESS COMMAND. A host is found by its address.
_REMOTE_SHELL = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
address=$1
shift
number=${{address##*.}}
exec ip netns exec "{prefix}-$number" unshare --uts bash -c 'hostname "$0"; eval "exec $*"' "host$number" "$@"
"""
_SUBNET = "10.213.77"


def absence() -> str | None:
    """Why hosts cannot be made here, or None."""
    missing = [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} cannot be found"
    if os.geteuid() != 0:
        return "network namespaces need root"
    library = comm.library_at_rest()
    if library is None or not library.startswith("MPICH"):
        return f"it is MPICH that is started across namespaces, and here is {library or 'no MPI'}"
    tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def _run(words: str) -> None:
    subprocess.run(words.split(), check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@contextlib.contextmanager
def hosts(count: int, rate: str) -> Iterator[str]:
    """`count` namespaces PREFIX-1, PREFIX-2 … with the addresses 1, 2 … of the subnet, joined by a switch: PREFIX."""
    prefix = f"pyhpc{os.getpid()}"
    names = [f"{prefix}-{number}" for number in range(count + 1)]  # the first one is the switch
    try:
        for name in names:
            _run(f"ip netns add {name}")
            _run(f"ip -n {name} link set lo up")
        _run(f"ip -n {names[0]} link add switch type bridge")
        _run(f"ip -n {names[0]} link set switch up")
        for number, name in enumerate(names[1:], start=1):
            _run(f"ip link add port netns {name} type veth peer name port{number} netns {names[0]}")
            _run(f"ip -n {names[0]} link set port{number} master switch up")
            _run(f"ip -n {name} addr add {_SUBNET}.{number}/24 dev port")
            _run(f"ip -n {name} link set port up")
            # Both ends, so that what a host receives is held at the rate too.
            for end, device in ((name, "port"), (names[0], f"port{number}")):
                _run(f"tc -n {end} qdisc add dev {device} root tbf rate {rate} burst 256kb latency 50ms")
        yield prefix
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def start(program: list[str], count: int, ranks: int, rate: str, timeout_seconds: float = 300) -> tuple[int, str]:
    """Run a Python program with `ranks` ranks on each of `count` hosts: its status, and what all ranks said."""
    places = ",".join(f"{_SUBNET}.{number}:{ranks}" for number in range(1, count + 1))
    with hosts(count, rate) as prefix, tempfile.TemporaryDirectory() as folder:
        shell = Path(folder) / "remote-shell"
        shell.write_text(_REMOTE_SHELL.format(prefix=prefix))
        shell.chmod(0o755)
        words = [
            "ip",
            "netns",
            "exec",
            f"{prefix}-1",
            "unshare",
            "--uts",
            "bash",
            "-c",
            'hostname host1; exec "$@"',
            "-",
        ]
        words += [str(comm.mpiexec()), "-launcher", "ssh", "-launcher-exec", str(shell), "-iface", "port"]
        words += ["-hosts", places, "-n", str(count * ranks), sys.executable, *program]
        done = subprocess.run(
            words,
            # Every rank shares this machine's cores with all others; messages go by TCP, the ranks of a host's too.
            env=os.environ | comm.yielding_environment() | {"UCX_TLS": "tcp,self"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    return done.returncode, done.stdout


def measure(size_bytes: int = 64 << 20, repeats: int = 3) -> None:
    """On every rank: the link's rate, then all-reduces beside it. Rank 0 prints."""
    import numpy as np

    from pyhpc import allreduce
    from pyhpc.kernels.allreduce_plan import engine

    channel = comm.channel()
    world, rank, ranks = channel.comm, channel.rank, channel.ranks
    x, out = np.ones(size_bytes // 4, np.float32), np.empty(size_bytes // 4, np.float32)
    local = engine(channel).local_ranks
    k = ranks // len(local)

    def ping_pong() -> None:
        if rank == 0:
            world.Send(x, ranks - 1)
            world.Recv(out, ranks - 1)
        elif rank == ranks - 1:
            world.Recv(out, 0)
            world.Send(x, 0)

    calls: dict[str, Callable[[], object]] = {"ping-pong": ping_pong}
    for name in ("auto", "ring", "halving_doubling", "hierarchical", "mpi"):
        calls[name] = lambda name=name: allreduce(x, op="sum", algorithm=name, out=out)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            channel.synchronise()
            begin = time.perf_counter()
            call()
            seconds[name].append(max(world.allgather(time.perf_counter() - begin)))
            if name != "ping-pong" and not (out == ranks).all():
                raise SystemExit(f"rank {rank}: {name} is wrong")
    if rank == 0:
        link = 2 * size_bytes / statistics.median(seconds["ping-pong"])
        print(f"{ranks} ranks on {k} hosts, {size_bytes >> 20} MiB; ping-pong: {link / 1e9:.4f} GB/s")
        for name in list(calls)[1:]:
            sent = size_bytes * 2 * (k - 1) / k / statistics.median(seconds[name])
            print(f"{name:18} each host sends {sent / 1e9:.4f} GB/s, {sent / link:.3f} of the ping-pong's rate")


def main() -> None:
    """Parse the command line; start the hosts, or measure where a launcher has started this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1, help="of each host")
    parser.add_argument("--rate", default="1gbit", help="of each host's port, each way, as tc writes it")
    parser.add_argument("program", nargs="*", help="of Python, with its words; none: all-reduce beside the link's rate")
    asked = parser.parse_args()
    if comm.launched():
        measure()
        return
    reason = absence()
    if reason is not None:
        raise SystemExit(f"no hosts can be made because {reason}")
    status, said = start(asked.program or [__file__], asked.hosts, asked.ranks, asked.rate)
    print(said, end="")
    raise SystemExit(status)


if __name__ == "__main__":
    main()
