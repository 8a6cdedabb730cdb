"""The line scanner against tomllib: the same structure, and the right lines."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhpc.acceptance.toml_lines import line_of, lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = '''# comment with [brackets] = "and quotes
name = "x # not a comment"   # comment
multi = """
a = 1 ]
"""
[a.b]
"quoted.key" = 'literal ]'
dotted.key = 3
[[list]]
rows = [
  {x = [1, 2], y = "}"},

  {x = [3, # comment ]
        4]},
]
[[list.inner]]
z = -1.5e3
[[list]]
w = 1979-05-27T07:32:00Z
[[list.inner]]
[list.inner.deep]
v = true
'''


def paths(value, path=()):
    """Every path of a parsed TOML value."""
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in items:
        found |= paths(member, (*path, key))
    return found


def test_every_path_of_the_parsed_file_has_a_line_and_no_other_has():
    assert set(lines_of(TEXT)) == paths(tomllib.loads(TEXT))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("multi",), 3),
        (("a", "b", "quoted.key"), 7),
        (("a", "b", "dotted", "key"), 8),
        (("list", 0), 9),
        (("list", 0, "rows", 1), 13),
        (("list", 0, "rows", 1, "x", 1), 14),
        (("list", 0, "inner", 0, "z"), 17),
        (("list", 1, "w"), 19),
        (("list", 1, "inner", 0, "deep", "v"), 22),
    ],
)
def test_a_key_is_found_where_it_stands(path, line):
    assert lines_of(TEXT)[path] == line


def test_an_unknown_path_has_the_line_of_what_surrounds_it():
    lines = lines_of(TEXT)
    assert line_of(lines, ("list", 0, "rows", 1, "missing")) == 13
    assert line_of(lines, ("nowhere",)) is None


def test_an_empty_text_has_no_lines():
    assert lines_of("") == {}
    assert lines_of("  # only a comment") == {}


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30), st.integers(0, 3))
def test_no_text_in_a_string_confuses_the_scanner(text, blanks):
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    document = "\n" * blanks + f"a = {quoted}\nb = [{quoted}, {{c = {quoted}}}]\nd = 1\n"
    assert tomllib.loads(document)["a"] == text
    assert set(lines_of(document)) == paths(tomllib.loads(document))
    assert lines_of(document)[("d",)] == blanks + 3
