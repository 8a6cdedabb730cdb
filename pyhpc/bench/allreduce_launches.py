"""`pyhpc bench allreduce` started alone: the same contest in several launches, on several MPIs, in one table.

An all-reduce's speed is settled at launch: which cores the ranks get, where their memory lies, what MPI finds out about
the node. So each figure is the median over launches of a launch's median, and the combinations of MPI and thread level
take turns launch by launch. MPICH has its shared-memory all-reduce only below thread level multiple, therefore both.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyhpc import comm
from pyhpc.bench.allreduce_table import cells, headings
from pyhpc.errors import ConfigError, MeasurementError
from pyhpc.kernels.allreduce_problem import busbw
from pyhpc.native import child_command

_PLACEMENTS = ("out_of_place", "in_place")
_LIBRARY = "libmpi.so or libmpich.so"


@dataclass(frozen=True)
class Launches:
    """What is launched."""

    ranks: int
    words: tuple[str, ...]  # of the command that each rank runs
    launches: int
    libraries: tuple[str, ...]  # of MPI; none: those that come with this Python
    thread_levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.launches < 1:
            raise ConfigError(f"launches is {self.launches}; at least one is needed")
        for level in self.thread_levels:
            if level not in comm.THREAD_LEVELS:
                raise ConfigError(f"thread level is {level!r}; it must be one of {', '.join(comm.THREAD_LEVELS)}")
        for path in self.libraries:
            if not Path(path).is_file():
                raise ConfigError(f"there is no MPI library {path!r}: give the path of a {_LIBRARY}")


@dataclass(frozen=True)
class Cell:
    """One contestant at one size in one combination of MPI, thread level and cache, over all launches."""

    cache: str
    size_bytes: int
    count: int
    contestant: str
    played: str
    mpi: str
    thread_level: str
    ranks: int
    launches: tuple[dict[str, Any], ...]  # a row of each launch, as in the JSON
    line_latencies_seconds: tuple[float, ...]

    def seconds(self, placement: str) -> float:
        """Median over the launches."""
        return float(statistics.median(row[placement]["time"] for row in self.launches)) / 1e6

    def block(self, placement: str) -> str:
        """The columns of one placement."""
        seconds = self.seconds(placement)
        share = statistics.median(row[placement]["share_of_bound"] for row in self.launches)
        wrong = sum(row[placement]["nwrong"] for row in self.launches)
        return cells(seconds, self.size_bytes / seconds, busbw(self.size_bytes, seconds, self.ranks), share, wrong)


def launch_all(asked: Launches) -> list[dict[str, Any]]:
    """Every combination in turn, again and again: the JSON of each launch.

    Raises:
        Unsupported: there is no mpiexec.
        MeasurementError: ranks that ended without figures; the sentence has what they said last.
    """
    libraries = asked.libraries or tuple(map(str, comm.libraries())) or (None,)
    combinations = list(itertools.product(libraries, asked.thread_levels))
    found = []
    for number in range(asked.launches):
        first = number % len(combinations)
        for library, level in combinations[first:] + combinations[:first]:
            found.append(_launch(asked, library, level) | {"launch": number})
    return found


def _launch(asked: Launches, library: str | None, level: str) -> dict[str, Any]:
    """One launch."""
    variables = {"MPI4PY_RC_THREAD_LEVEL": level} | ({} if library is None else {"MPI4PY_LIBMPI": library})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        words = [*comm.mpiexec_command(asked.ranks, library), *child_command("pyhpc.cli"), *asked.words]
        done = subprocess.run(
            [*words, "--json", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | comm.mpiexec_environment(asked.ranks) | variables,
            check=False,
        )
        if not file.exists():
            said = " / ".join(done.stdout.strip().splitlines()[-5:]) or "nothing"
            where = f"{library or 'the MPI of this Python'}, thread level {level}"
            raise MeasurementError(f"ranks on {where} ended with status {done.returncode} and said last: {said}")
        result: dict[str, Any] = json.loads(file.read_text())
    return result


def wrong(found: Sequence[dict[str, Any]]) -> int:
    """Wrong elements of all launches."""
    return sum(int(contestant["out_of_bounds"]["count"]) for one in found for contestant in one["contestants"])


def cells_of(found: Sequence[dict[str, Any]]) -> list[Cell]:
    """All launches of the same together, sorted by cache and size."""
    together: dict[tuple[str, int, str, str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for one in found:
        name, level = short_name(one["config"]["mpi"]), one["config"]["thread_level"]
        for contestant in one["contestants"]:
            for row in contestant["results"]:
                key = (contestant["cache"], row["size"], name, level, contestant["algorithm"])
                together.setdefault(key, []).append((one, row))
    made = [
        Cell(
            cache,
            size,
            rows[0][1]["count"],
            contestant,
            rows[0][1]["algorithm"],
            name,
            level,
            len(rows[0][0]["ranks"]),
            tuple(row for _, row in rows),
            tuple(one["config"]["line_latency_seconds"] for one, _ in rows),
        )
        for (cache, size, name, level, contestant), rows in together.items()
    ]
    return sorted(made, key=lambda cell: (cell.cache != "warm", cell.size_bytes))


def short_name(library: str) -> str:
    """ "MPICH 5.0.2" of "MPICH Version: 5.0.2", "Open MPI 5.0.11" of "Open MPI v5.0.11, package: …"."""
    found = re.match(r"(MPICH|Open MPI)\D*([\d.]+)", library)
    return library[:16] if found is None else " ".join(found.groups())


def render(found: Sequence[dict[str, Any]]) -> str:
    """The table."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    every = cells_of(found)
    host, ranks, config = found[0]["ranks"][0]["hostname"], len(found[0]["ranks"]), found[0]["config"]
    row = every[0].launches[0]
    yield f"# all-reduce, {row['type']} {row['redop']}, {ranks} ranks on {host}"
    launches = 1 + max(one["launch"] for one in found)
    yield f"# medians over {launches} launches of each launch's median of the slowest rank's time, all results verified"
    yield f"# up to {config['iterations']} iterations a launch; data rewritten before each call; caches warm or emptied"
    yield "# %bound: of a copy of the vector on all ranks at once, or of a cache line's way between two cores"
    yield "# x mpi: the fastest MPI_Allreduce of this size and cache / this; line: a cache line's way in these launches"
    if len({cell.mpi for cell in every}) == 1:
        yield f"# one MPI was here: --mpi PATH,PATH, each of a {_LIBRARY}, compares several"
    for name, reason in dict.fromkeys(pair for one in found for pair in one["absent"].items()):
        yield f"# {name}: absent because {reason}"
    for cache in dict.fromkeys(cell.cache for cell in every):
        yield from _table(cache, [cell for cell in every if cell.cache == cache])
    bad = wrong(found)
    yield f"# Out of bounds values : {bad} {'FAILED' if bad else 'OK'}"


def _table(cache: str, every: Sequence[Cell]) -> Iterator[str]:
    names, units = headings()
    yield "#"
    yield f"# caches {cache}"
    yield f"# {'':65}  {'out-of-place':^41}{'in-place':^41}"
    yield f"# {'size':>10}  {'MPI':15} {'threads':8} {'algorithm':27}{names}{names}  {'x mpi':>6}  {'line':>5}"
    yield f"# {'(B)':>10}  {'':15} {'':8} {'':27}{units}{units}  {'':>6}  {'(ns)':>5}"
    for cell in every:
        rivals = [other for other in every if other.size_bytes == cell.size_bytes and other.contestant == "mpi"]
        best = min((rival.seconds("out_of_place") for rival in rivals), default=None)
        ratio = "" if best is None else f"{best / cell.seconds('out_of_place'):.2f}"
        blocks = "".join(map(cell.block, _PLACEMENTS))
        line = f"{1e9 * statistics.median(cell.line_latencies_seconds):.0f}"
        name = cell.contestant if cell.contestant == cell.played else f"{cell.contestant} ({cell.played})"
        place = f"{cell.size_bytes:12}  {cell.mpi:15} {cell.thread_level:8} {name:27}"
        yield f"{place}{blocks}  {ratio:>6}  {line:>5}"
