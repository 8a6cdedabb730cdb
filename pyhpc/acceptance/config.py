"""Stage 1, config: a suite in TOML → `Suite`. Whatever cannot be meant is an error with file and line.

A suite is a list of `[[step]]`s, each with `cases` (inline tables: kernel, and the kernel's own parameters; a list of
alternatives is expanded) and `[[step.limit]]`s. benchmarks/quick.toml is the example to read. What only the machine can
answer (is this kernel known, does this dtype run, is this number above the peak) is the plan's to ask.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pyhpc.acceptance.toml_lines import line_of, lines_of
from pyhpc.errors import ConfigError
from pyhpc.measure.measurement import Record
from pyhpc.measure.measurement import Sampling as Sampling
from pyhpc.measure.statistics import QUANTILES
from pyhpc.measure.statistics import Statistic as Statistic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = bool | int | float | str

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_FLOPS = {"FLOP/s": 1.0, "MFLOP/s": 1e6, "GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15}
_BYTES = {"B/s": 1.0, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12, "Gb/s": 1e9 / 8}  # Gb/s: as network ports are sold
# metric → the units a limit on it may have, and what one of them is in the unit of the samples (s, flop/s, B/s).
METRIC_UNITS: dict[str, dict[str, float]] = {
    "seconds": _SECONDS,
    "line_latency": _SECONDS,
    "flops_per_second": _FLOPS,
    "bytes_per_second": _BYTES,
    "algbw": _BYTES,
    "busbw": _BYTES,
}
LOWER_IS_BETTER = ("seconds", "line_latency")
_FRACTION = "fraction"


def samples_needed(statistic: Statistic, confidence: float) -> int:
    """The fewest samples from which a two-sided interval of the statistic can be given at all.

    The widest interval, [smallest, largest sample], misses quantile p below with probability (1-p)^n and above with
    p^n; each may be (1 - confidence) / 2. "min" and "max" speak of the samples themselves: one is enough.
    """
    if statistic not in QUANTILES:
        return 1
    probability = QUANTILES[statistic]
    return math.ceil(math.log((1 - confidence) / 2) / math.log(max(probability, 1 - probability)))


class Limit(Record):
    """What one metric of a step must reach, and who says so.

    With `of = "ceiling"` the numbers are fractions of the physical limit measured in the same run (the case's ceiling
    for this metric: `at_least` of its median, `at_most` of its fastest sample) and `unit` is "fraction"; otherwise they
    are in `unit` ("GFLOP/s", "TFLOP/s", "GB/s", "us", ...).
    `at_most` on a rate is the plausibility bound: above it the result is not believed.
    """

    metric: str  # a key of METRIC_UNITS
    unit: str
    source: str  # contract clause, data sheet, derivation: a limit without a source is refused
    at_least: float | None = None
    at_most: float | None = None
    of: Literal["ceiling"] | None = None
    where: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)  # parameter → value(s) of the cases meant
    statistic: Statistic = "median"
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    required: bool = True
    line: int = 0  # where in the suite

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric not in METRIC_UNITS:
            raise ValueError(f"there is no metric {metric!r}{near(metric, METRIC_UNITS)}")
        return metric

    @field_validator("source")
    @classmethod
    def _has_source(cls, source: str) -> str:
        if not source.strip():
            raise ValueError("the source is empty: say which clause, data sheet or derivation the limit comes from")
        return source

    @model_validator(mode="after")
    def _can_be_meant(self) -> Limit:
        units = METRIC_UNITS[self.metric]
        if self.of is None and self.unit not in units:
            raise ValueError(f"unit {self.unit!r} does not fit {self.metric}, which is given in {', '.join(units)}")
        if self.of is not None and self.unit != _FRACTION:
            raise ValueError(f'unit {self.unit!r} does not fit of = "ceiling", whose unit is "fraction"')
        if self.of is not None and self.metric in LOWER_IS_BETTER:
            raise ValueError(f"{self.metric} has no ceiling to be relative to: limit a rate, or give seconds")
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if not bounds:
            raise ValueError("a limit needs at_least or at_most (or both)")
        if min(bounds) <= 0:
            raise ValueError(f"a bound of {min(bounds):g} {self.unit} limits nothing: {self.metric} is positive")
        if bounds != sorted(bounds):
            raise ValueError(f"at_least {self.at_least:g} is above at_most {self.at_most:g}: nothing can pass")
        if self.of is not None and self.at_least is not None and self.at_least > 1:
            raise ValueError(f"at_least = {self.at_least:g} of the ceiling is above the physical peak")
        if self.of is not None and self.at_most is not None and self.at_most > 2:
            raise ValueError(f"at_most = {self.at_most:g} times the physical peak believes anything; 2 is the largest")
        return self

    @property
    def samples_needed(self) -> int:
        """The fewest samples this limit can be judged with."""
        return samples_needed(self.statistic, self.own_confidence)

    @property
    def own_confidence(self) -> float:
        """The confidence of the case's own interval: a ceiling's shares the risk in halves (Bonferroni)."""
        return self.confidence if self.of is None else (1 + self.confidence) / 2


class CaseConfig(Record):
    """One inline table of `cases`: every key but kernel, variant and device is a parameter of the kernel's problem.

    A list is a choice of alternatives, and several lists are multiplied out; a parameter that is itself a list is
    written as a list of lists.
    """

    kernel: str = ""  # empty: the kernel called like the workload
    variant: str | tuple[str, ...] = "best"
    device: Literal["cpu", "cuda"] = "cpu"
    parameters: dict[str, Any] = Field(default_factory=dict)
    line: int = 0


class StepConfig(Record):
    """One `[[step]]` as written."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # a folder is named after it
    workload: str  # a file of acceptance/workloads: "kernel", "memory", "allreduce", "pair", "burn"
    nodes: Literal["each", "all"] | None = None  # every rank for itself, or all together; None: as the workload does
    ranks_per_node: int | Literal["cores", "gpus"] = 1
    threads: int | Literal["all"] = "all"  # threads of one rank: "all" = its share of the node's cores
    timeout_seconds: float = Field(default=120.0, gt=0)
    cases: tuple[CaseConfig, ...]
    limit: tuple[Limit, ...] = ()
    sampling: Sampling = Sampling()
    required: bool = True
    line: int = 0

    @field_validator("cases")
    @classmethod
    def _not_empty(cls, cases: tuple[CaseConfig, ...]) -> tuple[CaseConfig, ...]:
        if not cases:
            raise ValueError("cases is empty: there is nothing to measure")
        return cases

    @field_validator("ranks_per_node", "threads")
    @classmethod
    def _positive(cls, count: int | str) -> int | str:
        if isinstance(count, int) and count < 1:
            raise ValueError(f"{count} is less than 1")
        return count

    @model_validator(mode="after")
    def _can_be_judged(self) -> StepConfig:
        if self.sampling.min_samples > self.sampling.max_samples:
            raise ValueError(
                f"min_samples {self.sampling.min_samples} is above max_samples {self.sampling.max_samples}"
            )
        for limit in self.limit:
            if limit.samples_needed > self.sampling.max_samples:
                raise ValueError(
                    f"the {limit.statistic} at confidence {limit.confidence:g} needs at least {limit.samples_needed} "
                    f"samples and max_samples is {self.sampling.max_samples}: no verdict could ever be given"
                )
        return self


class Suite(Record):
    """A validated suite file."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    description: str = ""
    step: tuple[StepConfig, ...]
    path: str = ""
    digest: str = ""  # sha256 of the file's bytes

    @field_validator("step")
    @classmethod
    def _not_empty(cls, steps: tuple[StepConfig, ...]) -> tuple[StepConfig, ...]:
        if not steps:
            raise ValueError("there is no [[step]]: there is nothing to measure")
        return steps


# key of a table → its type, and what a sentence calls it
_TABLES: dict[str, tuple[type[Record], str]] = {
    "": (Suite, "a suite"),
    "step": (StepConfig, "[[step]]"),
    "limit": (Limit, "[[step.limit]]"),
    "sampling": (Sampling, "sampling"),
    "cases": (CaseConfig, "a case"),
}
_OURS = ("line", "path", "digest", "parameters")  # filled in here, never written in a suite


def load(path_or_name: str | Path) -> Suite:
    """The suite of a file, or the bundled one of this name ("quick").

    Raises:
        ConfigError: it cannot be read, or says something that cannot be meant; file and line say where.
    """
    path = find(path_or_name)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"the suite cannot be read: {error.strerror or error}", str(path)) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"the suite is not UTF-8 text: {error.reason}", str(path), line) from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"line (\d+)", str(error))
        raise ConfigError(f"this is not TOML: {error}", str(path), int(where.group(1)) if where else None) from error
    lines = lines_of(text)
    written = _with_lines(raw, lines, str(path))
    try:
        # Strict, and from JSON: a list is a tuple here, but "10" is not 10.
        suite = Suite.model_validate_json(json.dumps(written, default=str), strict=True)
    except ValidationError as error:
        raise _first_error(error, lines, str(path)) from error
    seen: dict[str, int] = {}
    for step in suite.step:
        if step.name in seen:
            raise ConfigError(f"step {step.name!r} was already defined in line {seen[step.name]}", str(path), step.line)
        seen[step.name] = step.line
    return suite.model_copy(update={"path": str(path), "digest": hashlib.sha256(content).hexdigest()})


def bundled() -> dict[str, Path]:
    """The suites that come with pyhpc by name: of the source tree if this is one, else of the installed package."""
    import pyhpc

    folders = [Path(folder) for folder in pyhpc.__path__]
    trees = [folder.parent for folder in folders if (folder.parent / "csrc").is_dir()]
    found: dict[str, Path] = {}
    for place in [tree / "benchmarks" for tree in trees] + [folder / "suites" for folder in folders]:
        for path in sorted(place.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find(path_or_name: str | Path) -> Path:
    """The file that `path_or_name` means: a path if it looks like one, else a bundled suite's name.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ConfigError("there is no such suite file", str(path))
    suites = bundled()
    if path.name not in suites:
        raise ConfigError(f"there is no file and no bundled suite {path.name!r}{near(path.name, suites)}")
    return suites[path.name]


def near(word: str, known: Any) -> str:
    """The end of a sentence about an unknown word: the one that was probably meant, or all there are."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _with_lines(raw: dict[str, Any], lines: dict[Any, int], file: str) -> dict[str, Any]:
    """The parsed file with the line of every step, limit and case; a case's parameters in a table of their own."""

    def tables(owner: Any, key: str, path: tuple[Any, ...]) -> Any:
        found = owner.get(key, ()) if isinstance(owner, dict) else ()
        for index, table in enumerate(found if isinstance(found, list) else ()):
            if isinstance(table, dict):
                here = (*path, key, index)
                for name in set(_OURS) & set(table):
                    raise ConfigError(f"unknown key {name!r}", file, line_of(lines, (*here, name)))
                table["line"] = line_of(lines, here) or 0
                yield table, here

    for name in set(_OURS) & set(raw):
        raise ConfigError(f"unknown key {name!r}", file, line_of(lines, (name,)))
    for step, path in tables(raw, "step", ()):
        for _ in tables(step, "limit", path):
            pass
        for case, _ in tables(step, "cases", path):
            own = {key: case.pop(key) for key in set(case) & {"kernel", "variant", "device", "line"}}
            parameters = dict(case)
            case.clear()
            case.update(own, parameters=parameters)
    return raw


def _first_error(error: ValidationError, lines: dict[Any, int], file: str) -> ConfigError:
    """The error that stands first in the file, as one sentence."""
    # A key is often missing because it is misspelt: then the misspelling is the error.
    found = min(error.errors(), key=lambda e: (e["type"] == "missing", line_of(lines, e["loc"]) or 0))
    loc = found["loc"]
    while loc and loc not in lines and found["type"] not in ("extra_forbidden", "missing"):
        loc = loc[:-1]  # pydantic appends the branch of a union
    names = [part for part in loc if isinstance(part, str)]
    key, table = (names[-1] if names else ""), (names[-2] if len(names) > 1 else "")
    record, place = _TABLES.get(table, (Record, table))
    if found["type"] == "extra_forbidden":
        fields = [field.alias or name for name, field in record.model_fields.items() if name not in _OURS]
        sentence = f"{place} has no key {key!r}{near(key, fields)}"
    elif found["type"] == "missing":
        sentence = f"{place} has no {key!r}" + (": a limit must say where it comes from" if key == "source" else "")
    elif found["type"] == "value_error":
        sentence = str(found["ctx"]["error"])
    else:
        message = found["msg"].removeprefix("Input ")
        sentence = f"{key} = {json.dumps(found['input'], default=str)} {message}"
    return ConfigError(sentence, file, line_of(lines, found["loc"]))
