from __future__ import annotations

import json

import pytest

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.schedules.rule import FILE_VARIABLE, NEVER, Band, Played, Row, Rule, Table, shipped, table

STAGED = Rule((Row(0, "staging", 4096),))
COPIED = Rule((Row(0, "staging", 4096), Row(5000, "single_copy", 8192, 1 << 20)))
TWO = Table(
    (Band(1e-7, "near", STAGED), Band(None, "far", COPIED)),
    (Played(2, 0, "ring"), Played(2, 100, "direct"), Played(3, 0, None), Played(4, 50, "swing", crowded=True)),
)


def test_a_table_is_the_same_after_a_file():
    for one in (TWO, shipped()):
        assert Table.parse(one.json(), "file") == one


def test_the_line_latency_decides_about_the_rule():
    assert TWO.rule(0.0, True) is TWO.rule(0.99e-7, True) is STAGED
    assert TWO.rule(1e-7, True) is TWO.rule(1.0, True) is COPIED
    assert [row.way for row in TWO.rule(1.0, single_copy=False).rows] == ["staging", "staging"]


def test_the_size_decides_about_the_row():
    assert [COPIED.row(size).from_bytes for size in (0, 4999, 5000, 1 << 40)] == [0, 0, 5000, 5000]


@pytest.mark.parametrize(
    ("ranks", "size", "crowded", "name"),
    [
        (2, 0, False, "ring"),
        (2, 100, False, "direct"),
        (3, 100, False, None),
        (9, 100, False, None),
        (4, 49, True, None),
        (4, 50, True, "swing"),
        (9, 50, True, "swing"),
        (3, 50, True, None),
        (1, 5, False, None),
    ],
)
def test_what_is_played_is_that_of_the_nearest_smaller_number_of_ranks_and_bytes(ranks, size, crowded, name):
    assert TWO.algorithm(ranks, size, crowded) == name


@pytest.mark.parametrize("size", [0, 1, 63, 4999, 5000, 3 << 20, (3 << 20) + 5])
@pytest.mark.parametrize("chunks", [1, 2, 7])
def test_strips_cover_a_vector(size, chunks):
    choice = COPIED.choose(size, chunks, strips=True)
    assert (choice.strips == 1) == (choice.step_bytes == NEVER)
    assert choice.strips * choice.step_bytes * chunks >= size
    assert COPIED.choose(size, chunks, strips=False).strips == 1


MISTAKES = {
    "no JSON": (lambda text: "{", "Invalid JSON"),
    "another way": (lambda text: text.replace("single_copy", "pigeon"), r"rows.1.way: Input should be 'staging' or"),
    "a row twice": (lambda text: text.replace("5000", "0"), "its rows begin at .0, 0."),
    "a long line": (lambda text: text.replace('"lines_bytes": 384', '"lines_bytes": 9999'), "at most 3584 can be"),
    "a long piece": (lambda text: text.replace("8192", "999999"), "piece_bytes is 999999; 1 to 262144 can be"),
    "no last band": (
        lambda text: text.replace('"below_seconds": null', '"below_seconds": 1'),
        "the last one end at null",
    ),
    "an algorithm": (lambda text: text.replace('"swing"', '"sling"'), "played.3: 'sling' is none of bine, direct,"),
    "an unknown word": (lambda text: text.replace('"source"', '"sauce"', 1), "bands.0.*(sauce|source)"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_file_is_told_with_its_place(name, tmp_path, monkeypatch):
    spoil, sentence = MISTAKES[name]
    file = tmp_path / "rule.json"
    file.write_text(spoil(TWO.json()))
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    with pytest.raises(InvalidArgument, match=f"rule.json.*{sentence}"):
        table()


def test_the_file_that_the_environment_names_is_taken(tmp_path, monkeypatch):
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(json.loads(TWO.json())))
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    assert table() == TWO
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(InvalidArgument, match="none', which cannot be read: No such file"):
        table()
    monkeypatch.delenv(FILE_VARIABLE)
    assert table() == shipped()
