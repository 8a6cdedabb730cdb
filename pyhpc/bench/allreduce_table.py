"""The all-reduce benchmark as nccl-tests prints it: a table for each contestant and cache, and JSON with its key names.

Differences, all visible in the output: the time is the median of the slowest rank's instead of the mean; a column tells
what share of the bound (allreduce.py) that is; a last column names the slowest rank; bus bandwidth on one rank is "n/a"
instead of 0; types are nccl-tests' names where it has one. Units: us, GB/s = 1e9 bytes per second.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from pyhpc.bench.allreduce import Result, Row, Timing

_TYPES = {"float64": "double", "float32": "float", "float16": "half"}  # the others keep their names
_NO_ROOT = -1


def render(result: Result) -> str:
    """The tables, one for each contestant and cache."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Result) -> Iterator[str]:
    sweep, ranks = result.sweep, len(result.processes)
    yield f"# all-reduce, {ranks} rank{'s' if ranks > 1 else ''}, {result.library}, thread level {result.thread_level}"
    yield (
        f"# warmup iters: {sweep.warmup} iters: {sweep.iterations} validation: 1 data: {sweep.pattern}, "
        f"seed {sweep.seed}, rewritten before each call"
    )
    yield "# above 1 MiB and with cold caches fewer iters, at least 3"
    yield "# time: median of the slowest rank; slow: the rank that was slowest most often"
    yield "# %bound: of a copy of the vector on all ranks at once, or of a cache line's way between two cores"
    if result.line_latency_seconds:
        yield f"# a cache line takes {result.line_latency_seconds * 1e9:.0f} ns between two ranks' cores"
    for process in result.processes:
        yield f"#  Rank {process.rank:2} Pid {process.pid:6} on {process.host:>10}"
    for name, cache in dict.fromkeys((row.algorithm, row.cache) for row in result.rows):
        yield from _table(name, cache, result)
    for name, reason in result.refused.items():
        yield f"# {name}: absent because {reason}"


def _table(name: str, cache: str, result: Result) -> Iterator[str]:
    rows = [row for row in result.rows if (row.algorithm, row.cache) == (name, cache)]
    played = " then ".join(dict.fromkeys(row.played for row in rows))
    yield "#"
    yield f"# algorithm: {name}" + (f" ({played})" if name != played else "") + f", caches {cache}"
    block, units = headings()
    yield f"# {'':10}  {'':12}  {'':8}  {'':6}  {'':6}  {'out-of-place':^41}{'in-place':^41}"
    yield f"# {'size':>10}  {'count':>12}  {'type':>8}  {'redop':>6}  {'root':>6}{block}{block}  {'slow':>5}"
    yield f"# {'(B)':>10}  {'(elements)':>12}  {'':8}  {'':6}  {'':6}{units}{units}  {'rank':>5}"
    for row in rows:
        sweep = result.sweep
        start = f"  {row.size_bytes:10}  {row.count:12}  {_type(sweep.dtype):>8}  {sweep.op:>6}  {_NO_ROOT:6}"
        yield f"{start}{_block(row, row.out_of_place)}{_block(row, row.in_place)}  {row.out_of_place.slowest_rank:5}"
    wrong = _wrong(rows)
    yield f"# {'Out of bounds values':20} : {wrong} {'FAILED' if wrong else 'OK'}"
    average = _average_busbw(rows)
    yield f"# {'Avg bus bandwidth':20} : {'n/a' if average is None else f'{average / 1e9:g}'}"
    yield "#"


def _type(dtype: str) -> str:
    return _TYPES.get(dtype, dtype)


def _cells(time: str, algbw: str, busbw: str, share: str, wrong: str) -> str:
    return f"  {time:>7}  {algbw:>6}  {busbw:>6}  {share:>6}  {wrong:>6}"


def headings() -> tuple[str, str]:
    """Names and units of the columns of one placement."""
    return _cells("time", "algbw", "busbw", "%bound", "#wrong"), _cells("(us)", "(GB/s)", "(GB/s)", "", "")


def _block(row: Row, timing: Timing) -> str:
    return cells(timing.median, row.algbw(timing), row.busbw(timing), row.share(timing), timing.wrong)


def cells(seconds: float, algbw: float, busbw: float | None, share: float, wrong: int) -> str:
    """The columns of one placement."""
    bus = "n/a" if busbw is None else _number(busbw / 1e9, 6)
    return _cells(_number(seconds * 1e6, 7), _number(algbw / 1e9, 6), bus, _number(100 * share, 6), str(wrong))


def _number(value: float, width: int) -> str:
    """Two decimals where they fit, then one, then none."""
    return next((text for decimals in (2, 1) if len(text := f"{value:.{decimals}f}") < width), f"{value:.0f}")


def _wrong(rows: list[Row]) -> int:
    return sum(row.out_of_place.wrong + row.in_place.wrong for row in rows)


def _average_busbw(rows: list[Row]) -> float | None:
    """Mean over sizes and both placements, in bytes per second."""
    values = [row.busbw(timing) for row in rows for timing in (row.out_of_place, row.in_place)]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def to_json(result: Result) -> dict[str, Any]:
    """One object for each contestant and cache with nccl-tests' keys (option -J), and every rank's raw seconds."""
    return {
        "config": {
            "warmup_iters": result.sweep.warmup,
            "iterations": result.sweep.iterations,
            "validation": 1,
            "mpi": result.library,
            "thread_level": result.thread_level,
            "pattern": result.sweep.pattern,
            "seed": result.sweep.seed,
            "line_latency_seconds": result.line_latency_seconds,
        },
        "ranks": [{"rank": p.rank, "pid": p.pid, "hostname": p.host} for p in result.processes],
        "contestants": [
            _contestant(name, cache, result)
            for name, cache in dict.fromkeys((row.algorithm, row.cache) for row in result.rows)
        ],
        "absent": dict(result.refused),
    }


def _contestant(name: str, cache: str, result: Result) -> dict[str, Any]:
    rows = [row for row in result.rows if (row.algorithm, row.cache) == (name, cache)]
    wrong, average = _wrong(rows), _average_busbw(rows)
    return {
        "algorithm": name,
        "cache": cache,
        "results": [_result(row, result) for row in rows],
        "out_of_bounds": {"count": wrong, "okay": wrong == 0},
        "average_bus_bandwidth": {"bandwidth": None if average is None else average / 1e9, "okay": "unchecked"},
    }


def _result(row: Row, result: Result) -> dict[str, Any]:
    return {
        "size": row.size_bytes,
        "count": row.count,
        "type": _type(result.sweep.dtype),
        "redop": result.sweep.op,
        "root": _NO_ROOT,
        "algorithm": row.played,
        "bound_seconds": row.bound_seconds,
        "out_of_place": _timing(row, row.out_of_place),
        "in_place": _timing(row, row.in_place),
    }


def _timing(row: Row, timing: Timing) -> dict[str, Any]:
    busbw = row.busbw(timing)
    return {
        "time": timing.median * 1e6,
        "alg_bw": row.algbw(timing) / 1e9,
        "share_of_bound": row.share(timing),
        "bus_bw": None if busbw is None else busbw / 1e9,
        "nwrong": timing.wrong,
        "slowest_rank": timing.slowest_rank,
        "seconds": [list(seconds) for seconds in timing.seconds],
    }
