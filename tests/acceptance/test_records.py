from __future__ import annotations

import errno
import os

import pytest

from pyhpc.acceptance import records
from pyhpc.errors import RunError
from pyhpc.measure.measurement import Measurement, Subject


def measurement(case: str = "a", rank: int = 0, attempt: int = 1) -> Measurement:
    return Measurement(
        step="s", case=case, kernel="k", variant="v", problem={}, subject=Subject(rank=rank), attempt=attempt
    )


def test_what_is_appended_is_read_back_in_order(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [measurement("a"), measurement("b"), measurement("b", attempt=2)]
    for one in written:
        records.append(path, one)
    assert records.read(path) == (written, [])


def test_a_torn_last_line_is_reported_and_spoils_nothing_appended_later(tmp_path):
    path = tmp_path / "records.jsonl"
    records.append(path, measurement("a"))
    with path.open("ab") as file:
        file.write(b'{"step": "s", "ca')
    records.append(path, measurement("b"))
    read, damaged = records.read(path)
    assert [m.case for m in read] == ["a", "b"]
    assert len(damaged) == 1
    assert "line 2" in damaged[0]


def test_a_record_with_an_infinite_sample_is_damaged(tmp_path):
    path = tmp_path / "records.jsonl"
    line = measurement("a").model_dump_json().replace('"started":0.0', '"started":Infinity')
    assert "Infinity" in line
    path.write_text(line + "\n")
    read, damaged = records.read(path)
    assert not read
    assert len(damaged) == 1


def test_a_missing_file_has_no_records(tmp_path):
    assert records.read(tmp_path / "none.jsonl") == ([], [])


def test_load_takes_over_once_what_workers_wrote_and_the_driver_did_not(tmp_path):
    records.append(tmp_path / records.RECORDS, measurement("a"))
    place = tmp_path / records.STEPS / "s.1"
    place.mkdir(parents=True)
    for one in (measurement("a"), measurement("b"), measurement("b", rank=1)):
        records.append(place / f"rank-{one.subject.rank}.jsonl", one)
    loaded, damaged = records.load(tmp_path)
    assert sorted((m.case, m.subject.rank) for m in loaded) == [("a", 0), ("b", 0), ("b", 1)]
    assert not damaged


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    records.write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        records.write_atomically(path, "new")
    with pytest.raises(RunError, match="No space left on device"):
        records.append(tmp_path / "records.jsonl", measurement())
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["records.jsonl", "report.json"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        records.write_atomically(tmp_path / "file" / "report.json", "x")


def test_states_skip_what_is_torn(tmp_path):
    (tmp_path / "rank-0.state").write_text('{"rank": 0, "phase": "sampling"}')
    (tmp_path / "rank-1.state").write_text('{"rank": 1, "ph')
    assert list(records.states(tmp_path)) == [0]
