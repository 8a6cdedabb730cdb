"""`pyhpc tune allreduce`: how vectors travel fastest inside this node, as the table that PYHPC_ALLREDUCE_RULE names.

At each size all ways take turns, in another order each round, on input that is rewritten before each call; the slowest
rank's time counts. The fastest by the median of the rounds is taken, but what the present table has, or else what was
taken at the size before, where that is slower by no more than noise: ties change nothing, and neighbouring sizes share
a row. What is found replaces the rule of the band that this node's line latency lies in, and what "auto"
plays on this number of ranks; the other bands stay as they are.
"""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import sys
import time
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from pyhpc.comm import Channel, channel, launched, mpi, mpiexec_command, mpiexec_environment, node_name
from pyhpc.errors import InvalidArgument
from pyhpc.kernels.allreduce_plan import engine
from pyhpc.kernels.schedules.cheapest import cheapest
from pyhpc.kernels.schedules.engine import Engine, Plan
from pyhpc.kernels.schedules.rule import MOST_LINES_BYTES, NEVER, Band, Played, Row, Rule, Table
from pyhpc.kernels.schedules.schedule import algorithms
from pyhpc.machine import usable_cores
from pyhpc.native import child_command

NOISE = 1.03  # as a ratio of times
_SERIES_BYTES = 64 << 10  # up to this many calls in a row are timed, not each of them
_FLOAT = np.dtype(np.float32)
_IN_A_NODE = ("recursive_doubling", "recursive_multiplying", "direct", "halving_doubling")

Label = TypeVar("Label", bound=Hashable)


def tune_allreduce(path: Path, largest_bytes: int, rounds: int, ranks: int | None = None) -> int:
    """Search on the ranks of the world, and write the table to `path`. Started alone: on `ranks` (default: every core).

    Returns:
        The exit status.

    Raises:
        InvalidArgument: fewer than two ranks, or ranks on several nodes.
        Unsupported: there is no MPI.
    """
    if not launched():
        count = ranks or max(2, usable_cores())
        command = [*mpiexec_command(count), *child_command("pyhpc.cli"), *sys.argv[1:]]
        environment = os.environ | mpiexec_environment(count)
        return subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False).returncode
    search = Search(channel(), rounds)
    found = search.table(largest_bytes)
    if search.private.rank == 0:
        path.write_text(found.json())
    return 0


class Search:
    """One search on the ranks of a channel."""

    def __init__(self, private: Channel, rounds: int) -> None:
        self.private, self.rounds = private, rounds
        self.engine: Engine = engine(private)
        if private.ranks < 2 or not self.engine.one_node:
            raise InvalidArgument(
                f"all-reduces are tuned on two or more ranks of one node; here {private.ranks} run on "
                f"{'one' if self.engine.one_node else 'several'}"
            )

    def table(self, largest_bytes: int) -> Table:
        """The present table with what was found in its places."""
        present, usual = self.engine.table, self.engine.rule
        latency = 0.0 if self.engine.crowded else self.engine.line_latency_seconds
        try:
            rule = replace(usual, lines_bytes=self.lines_bytes(usual))
            rule = replace(rule, windows_bytes=self.windows_bytes(rule))
            played = self.played(rule, min(largest_bytes, 256 << 10))
            rule = replace(rule, rows=self.rows(rule, replace(present, played=played), largest_bytes))
        finally:
            self.engine.rule = usual
        when = datetime.datetime.now(datetime.timezone.utc).date()
        source = f"{node_name()}, {self.private.ranks} ranks {latency * 1e9:.0f} ns apart, pyhpc tune allreduce, {when}"
        band = present.band(latency)
        bands = tuple(Band(b.below_seconds, source, rule) if b is band else b for b in present.bands)
        found: Table = self.private.comm.bcast(Table(bands, played))  # the first rank's source
        return found

    def lines_bytes(self, rule: Rule) -> int:
        """The longest message that is faster in the lines of the ring than in a slot."""
        found = 0
        for size in (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, MOST_LINES_BYTES):
            ways = {0: replace(rule, lines_bytes=0), size: replace(rule, lines_bytes=size)}
            plans = {lines: self.plan(way, "recursive_doubling", size) for lines, way in ways.items()}
            if self.fastest(plans, [size if size <= rule.lines_bytes else 0], _arrays(size)) == 0:
                break
            found = size
        return found

    def windows_bytes(self, rule: Rule) -> int:
        """The shortest vector that is faster in one pass, if all ranks share it, than by the schedule."""
        found = NEVER
        for size in (64 << 10, 32 << 10, 16 << 10, 8 << 10, 4 << 10, 2 << 10):
            shared = (self.engine.allocate(size // _FLOAT.itemsize, _FLOAT) for _ in range(2))
            plans = {limit: self.plan(replace(rule, windows_bytes=limit), "direct", size) for limit in (0, NEVER)}
            if self.fastest(plans, [0 if size >= rule.windows_bytes else NEVER], tuple(shared)) == NEVER:
                break
            found = size
        return found

    def played(self, rule: Rule, largest_bytes: int) -> tuple[Played, ...]:
        """What "auto" plays: found for this number of ranks, and as it was for others."""
        ranks, crowded = self.private.ranks, self.engine.crowded
        # Two ranks would move the same bytes by the others, which do without the one pass over shared arrays.
        tried = ("recursive_doubling", "direct") if ranks == 2 else _IN_A_NODE
        mine: list[Played] = []
        for size in _sizes(256, largest_bytes):
            present = self.engine.table.algorithm(ranks, size, crowded) or cheapest(ranks, size, ranks).name
            plans = {name: self.plan(rule, name, size) for name in {*tried, present}}
            best = self.fastest(plans, [present, *(row.algorithm for row in mine[-1:])], _arrays(size))
            if not mine or mine[-1].algorithm != best:
                mine.append(Played(ranks, size if mine else 0, best, crowded))
        others = (row for row in self.engine.table.played if (row.from_ranks, row.crowded) != (ranks, crowded))
        return (*others, *mine)

    def rows(self, rule: Rule, table: Table, largest_bytes: int) -> tuple[Row, ...]:
        """The way of every size."""
        rows: list[Row] = []
        for size in _sizes(4 << 10, largest_bytes):
            name = table.algorithm(self.private.ranks, size, self.engine.crowded)
            assert name is not None  # `played` has a row from 0 on
            preferred = [replace(row, from_bytes=0) for row in (rule.row(size), *rows[-1:])]
            plans = {way: self.plan(replace(rule, rows=(way,)), name, size) for way in {*preferred, *_ways(size)}}
            best = self.fastest(plans, preferred, _arrays(size))
            if not rows or preferred[-1] != best:
                rows.append(replace(best, from_bytes=size if rows else 0))
        return tuple(rows)

    def plan(self, rule: Rule, algorithm: str, size: int) -> Plan:
        """A plan by this rule."""
        self.engine.rule = rule
        return self.engine.plan(algorithms()[algorithm], size // _FLOAT.itemsize, _FLOAT, "sum", 0)

    def fastest(self, plans: dict[Label, Plan], preferred: list[Label], arrays: tuple[np.ndarray, ...]) -> Label:
        """The first of the preferred plans that is the fastest but for noise, else the fastest; alike on all ranks."""
        labels = sorted(plans, key=repr)  # a set's order differs between processes
        seconds = np.empty((len(labels), self.rounds + 1))  # the first round warms up
        for turn in range(self.rounds + 1):
            for place in np.random.default_rng(turn).permutation(len(labels)):
                seconds[place, turn] = self.seconds(plans[labels[place]], *arrays)
        self.private.comm.Allreduce(mpi().IN_PLACE, seconds, mpi().MAX)
        times = dict(zip(labels, seconds[:, 1:], strict=True))
        best = min(labels, key=lambda label: float(np.median(times[label])))
        as_good = (label for label in preferred if np.median(times[label] / times[best]) <= NOISE)
        return next(as_good, best)

    def seconds(self, plan: Plan, x: np.ndarray, out: np.ndarray) -> float:
        """Of a call on fresh data: the mean of a series of short ones with their rewriting, or one long one."""
        calls = min(400, 8 * _SERIES_BYTES // x.nbytes) if x.nbytes <= _SERIES_BYTES else 1
        x.fill(1)
        self.private.synchronise()
        start = time.perf_counter()
        for _ in range(calls):
            plan(x, out)
            if calls > 1:
                x.fill(1)
        return (time.perf_counter() - start) / calls


def _arrays(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(size // _FLOAT.itemsize, _FLOAT), np.zeros(size // _FLOAT.itemsize, _FLOAT)


def _sizes(smallest: int, largest: int) -> list[int]:
    return [smallest << step for step in range(max(1, int(math.log2(largest / smallest)) + 1))]


def _ways(size: int) -> set[Row]:
    """What is tried for a vector of this size."""
    strips = (None, 256 << 10, 512 << 10, 1 << 20) if size > 256 << 10 else (None,)
    results = (False, True) if size >= 1 << 20 else (False,)
    staged = {
        Row(0, "staging", 64 << 10, strip, slots, result)
        for strip in strips
        for slots in (False, True)
        for result in results
    }
    copied = {Row(0, "single_copy", 128 << 10, strip, False, result) for strip in strips for result in results}
    return staged | (copied if size >= 64 << 10 else set())
