"""The run folder on disk. Records are only ever appended, and every line is fsynced before the run goes on.

plan.json       the plan, written once
records.jsonl   one Measurement a line
steps/<step>.<attempt>/rank-<r>.jsonl    what each worker wrote, before the driver took it over
steps/<step>.<attempt>/rank-<r>.state    who it is and what it was last doing (JSON)
steps/<step>.<attempt>/output.log        what the workers printed
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from pyhpc.errors import RunError
from pyhpc.measure.measurement import Measurement

RECORDS, STEPS = "records.jsonl", "steps"


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing, and let it survive a power failure.

    Raises:
        RunError: the folder is missing, not writable or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; nothing of it was changed") from error


def append(path: Path, measurement: Measurement) -> None:
    """Append one record and wait until it is on the disk. A torn line left by a crash is closed first.

    Raises:
        RunError: the file cannot be written (unwritable folder, disk full).
    """
    try:
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(measurement.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; records written before are safe, resume when it is mended"
        ) from error


def read(path: Path) -> tuple[list[Measurement], list[str]]:
    """The records of a file, and one sentence for each line that is damaged."""
    measurements: list[Measurement] = []
    damaged: list[str] = []
    if not path.exists():
        return measurements, damaged
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            measurements.append(Measurement.model_validate_json(line))
        except ValidationError as error:
            damaged.append(f"{path.name} line {number} is damaged and does not count: {error.errors()[0]['msg']}")
    return measurements, damaged


def load(folder: Path) -> tuple[list[Measurement], list[str]]:
    """All records of a run: the driver's, and those that workers wrote but a killed driver never took over."""
    measurements, damaged = read(folder / RECORDS)
    have = {(*m.key, m.attempt) for m in measurements}
    for path in sorted((folder / STEPS).glob("*/rank-*.jsonl")):
        for measurement in read(path)[
            0
        ]:  # a torn line here is a case that was not finished: it is missing, not damaged
            if (*measurement.key, measurement.attempt) not in have:
                have.add((*measurement.key, measurement.attempt))
                measurements.append(measurement)
    return measurements, damaged


def states(folder: Path) -> dict[int, dict[str, object]]:
    """What each rank of a step last said of itself; ranks that said nothing readable are missing."""
    found: dict[int, dict[str, object]] = {}
    for path in sorted(folder.glob("rank-*.state")):
        try:
            found[int(path.stem.removeprefix("rank-"))] = json.loads(path.read_text())
        except (ValueError, OSError):
            continue  # being replaced, or torn by a crash: then this rank has said nothing
    return found
