"""Where in a TOML file each key stands: {("step", 0, "limit", 1, "unit"): 17, ...}.

tomllib gives values without positions, and an error without a line costs its reader minutes. The text given here has
been accepted by tomllib before, so this scanner only follows the structure (headers, keys, arrays, inline tables,
strings to skip) and never judges it.
"""

from __future__ import annotations

import re
from typing import Any

Path = tuple["str | int", ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Path, int] = {}

    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"TOML structure not understood at line {self.line()}"
        self.at = match.end()
        return match.group()

    def blank(self) -> str:
        """Skip white space and comments; the next character, "" at the end."""
        self.skip(_BLANK)
        return self.text[self.at : self.at + 1]

    def key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            quoted = self.blank() in ("'", '"')
            part = self.skip(_STRING if quoted else _BARE_KEY)
            parts.append(part[1:-1] if quoted else part)
            if self.blank() != ".":
                return tuple(parts)
            self.at += 1

    def pair(self, table: Path) -> None:
        self.blank()
        line, path = self.line(), table
        for part in self.key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # "="
        self.value(path)

    def value(self, path: Path) -> None:
        first = self.blank()
        if first in ("'", '"'):
            self.skip(_STRING)
        elif first not in ("[", "{"):
            self.skip(_SCALAR)
        else:
            self.at += 1
            self.members(path, "]" if first == "[" else "}")

    def members(self, path: Path, end: str) -> None:
        index = 0
        while self.blank() != end:
            if end == "]":
                member: Path = (*path, index)
                self.lines[member] = self.line()
                self.value(member)
                index += 1
            else:
                self.pair(path)
            if self.blank() == ",":
                self.at += 1
        self.at += 1

    def header(self, counts: dict[Path, int]) -> Path:
        """[a.b] or [[a.b]]: the path of the table it opens. `counts` has the tables of each array so far."""
        line = self.line()
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        names = self.key()
        self.at += 2 if array else 1
        path: Path = ()
        for depth, name in enumerate(names, start=1):
            path = (*path, name)
            self.lines.setdefault(path, line)
            if array and depth == len(names):
                counts[path] = counts.get(path, 0) + 1
            if path in counts:
                path = (*path, counts[path] - 1)
                self.lines.setdefault(path, line)
        return path


def lines_of(text: str) -> dict[Path, int]:
    """The line (from 1) of every key, array element and table of a valid TOML text."""
    scanner = _Scanner(text)
    counts: dict[Path, int] = {}
    table: Path = ()
    while first := scanner.blank():
        if first == "[":
            table = scanner.header(counts)
        else:
            scanner.pair(table)
    return scanner.lines


def line_of(lines: dict[Path, int], path: tuple[Any, ...]) -> int | None:
    """The line of `path`, or of the nearest thing around it that has one."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None
