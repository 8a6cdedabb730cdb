"""`pyhpc bench allreduce` from options to table: one launch's under mpiexec, else launches of its own, compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyhpc import comm
from pyhpc.acceptance.records import write_atomically


def bench_allreduce(json_path: str | None, sizes: tuple[int, int, int], launches: dict[str, Any], **sweep: Any) -> int:
    """Measure (all ranks), print the table and write JSON (rank 0).

    Args:
        json_path: a file for nccl-tests' JSON, or None.
        sizes: smallest and largest bytes of one rank's vector, and the factor between sizes.
        launches: the fields of `pyhpc.bench.allreduce_launches.Launches`, for a process that was started alone.
        sweep: the other fields of `pyhpc.bench.allreduce.Sweep`.

    Returns:
        The exit status: 0, or 1 if an element was wrong.
    """
    from pyhpc.bench.allreduce import Sweep, sizes_between

    asked = Sweep(sizes=sizes_between(*sizes), **sweep)
    if not comm.launched():
        return _compare(json_path, launches)
    from pyhpc.bench.allreduce_contest import benchmark
    from pyhpc.bench.allreduce_table import render, to_json

    result = benchmark(asked)
    if comm.world().Get_rank() == 0:
        print(render(result), end="", flush=True)
        _write(json_path, to_json(result))
    return 1 if result.wrong else 0


def _compare(json_path: str | None, launches: dict[str, Any]) -> int:
    """This very command on ranks of several launches."""
    from pyhpc.bench.allreduce_launches import Launches, launch_all, render, wrong
    from pyhpc.machine import usable_cores

    ranks = launches.pop("ranks") or max(2, usable_cores())
    found = launch_all(Launches(ranks=ranks, words=tuple(sys.argv[1:]), **launches))
    print(render(found), end="", flush=True)
    _write(json_path, {"launches": found})
    return 1 if wrong(found) else 0


def _write(path: str | None, what: dict[str, Any]) -> None:
    if path is not None:
        write_atomically(Path(path), json.dumps(what, indent=1) + "\n")
