"""`pyhpc bench allreduce` from options to table. Started alone, it starts itself again on ranks of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyhpc import comm
from pyhpc.acceptance.records import write_atomically
from pyhpc.native import child_command


def start_ranks(ranks: int | None) -> int:
    """Run this very command again on `ranks` ranks (default: every core) of this machine; returns its exit status."""
    from pyhpc.machine import usable_cores

    count = ranks or max(2, usable_cores())
    command = [*comm.mpiexec_command(count), *child_command("pyhpc.cli"), *sys.argv[1:]]
    environment = os.environ | comm.mpiexec_environment(count)
    return subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False).returncode


def bench_allreduce(ranks: int | None, json_path: str | None, sizes: tuple[int, int, int], **sweep: Any) -> int:
    """Measure (all ranks), print the table and write JSON (rank 0).

    Args:
        ranks: how many to start, when this process was started alone.
        json_path: a file for nccl-tests' JSON, or None.
        sizes: smallest and largest bytes of one rank's vector, and the factor between sizes.
        sweep: the other fields of `pyhpc.bench.allreduce.Sweep`.

    Returns:
        The exit status: 0, or 1 if an element was wrong.
    """
    if not comm.launched():
        return start_ranks(ranks)
    from pyhpc.bench.allreduce import Sweep, benchmark, sizes_between
    from pyhpc.bench.allreduce_table import render, to_json

    result = benchmark(Sweep(sizes=sizes_between(*sizes), **sweep))
    if comm.world().Get_rank() == 0:
        print(render(result), end="", flush=True)
        if json_path is not None:
            write_atomically(Path(json_path), json.dumps(to_json(result), indent=1) + "\n")
    return 1 if result.wrong else 0
