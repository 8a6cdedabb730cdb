"""What the READMEs say can be typed: commands parse, what they name exists, Python runs, the limit is a limit."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import click
import numpy as np
import pytest

from pyhpc.acceptance.config import bundled, load
from pyhpc.acceptance.formats.format import formats
from pyhpc.bench.shapes import problems
from pyhpc.cli import commands
from pyhpc.kernels.kernel import kernels

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "benchmarks/README.md", "csrc/README.md", "pyhpc/acceptance/README.md")
THE_READERS_OWN = {"contract.toml", "other.toml"}  # files that the reader writes
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
PLACES = ("benchmarks/", "csrc/", "pyhpc/", "tests/", ".ci/")


def blocks(readme: str, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return [text for kind, text in FENCE.findall((ROOT / readme).read_text()) if kind == language]


def code(readme: str) -> list[str]:
    """Every line of code for a shell: fenced, indented, or inside a sentence."""
    text = (ROOT / readme).read_text()
    plain = FENCE.sub("", text)
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]
    lines += [line for line in plain.splitlines() if line.startswith("    ")]
    return lines + re.findall(r"`([^`\n]+)`", plain)


def words_of(line: str) -> list[list[str]]:
    """The words of each command of a line, without its comment."""
    return [shlex.split(part, comments=True) for part in re.split(r"&&|;", line) if part.count("'") % 2 == 0]


def pyhpc_commands(line: str) -> list[list[str]]:
    """The arguments of each pyhpc in a line, whatever starts it."""
    found = []
    for words in words_of(line):
        for place, word in enumerate(words):
            if word in ("pyhpc", ".venv/bin/pyhpc") and place + 1 < len(words):
                found.append(words[place + 1 :])
    return found


def parsed(words: list[str]) -> tuple[list[str], dict[str, object]]:
    """The names of command and subcommand, and the parameters; raises what click raises."""
    group, names = commands, []
    while isinstance(group, click.Group) and words:
        name, group, words = group.resolve_command(click.Context(group), list(words))
        names.append(name)
    # A group alone, `pyhpc bench`, is spoken of, not typed.
    return names, {} if isinstance(group, click.Group) else group.make_context(names[-1], list(words)).params


def check(words: list[str]) -> None:
    """Refuse a command that pyhpc would refuse, or that names what is not there."""
    names, given = parsed(words)
    suite = given.get("suite")
    if suite is not None and suite not in bundled() and suite not in THE_READERS_OWN and not suite.isupper():
        assert (ROOT / suite).is_file(), f"there is no suite {suite}"
    assert set(given.get("names") or ()) <= set(formats())
    if names[0] == "bench" and given and names[1] != "allreduce":
        assert problems(names[1], given["shapes"], given["dtypes"])
        for contestant in given["vs"]:
            kernels()[names[1]].variant(contestant)


COMMANDS = [(readme, words) for readme in READMES for line in code(readme) for words in pyhpc_commands(line)]


@pytest.mark.parametrize(("readme", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_every_pyhpc_command_of_the_readmes_exists_with_all_it_names(readme, words):
    check(words)


def test_the_commands_of_the_readmes_are_found():
    found = {" ".join(words[:2]) for _, words in COMMANDS}
    assert {"accept", "plan contract.toml", "bench allreduce", "report RUN", "list", "accept --resume"} <= found


@pytest.mark.parametrize(
    "line",
    [
        "pyhpc accpet contract.toml",
        "srun -n 4 pyhpc accept --resum RUN",
        "pyhpc accept benchmarks/nowhere.toml",
        "pyhpc accept slow",
        "pyhpc bench fft",
        "pyhpc bench matmul --vs nobody",
        "pyhpc bench matmul --shapes 3by4",
        "pyhpc bench matmul --dtype float31",
        "pyhpc report RUN --format pdf",
    ],
)
def test_a_command_that_does_not_exist_would_be_found(line):
    (words,) = pyhpc_commands(line)
    with pytest.raises((AssertionError, ValueError, click.ClickException)):
        check(words)


@pytest.mark.parametrize("readme", READMES)
def test_every_file_that_a_readme_names_is_there(readme):
    text = (ROOT / readme).read_text()
    beside = (ROOT / readme).parent
    missing = [
        link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link and not (beside / link).exists()
    ]
    named = {word for line in code(readme) for words in words_of(line) for word in words if word.startswith(PLACES)}
    missing += [name for name in named if "<" not in name and "…" not in name and not list(ROOT.glob(name))]
    assert not missing


def test_the_python_of_the_readme_runs_and_gives_what_it_says():
    (block,) = blocks("README.md", "python")
    names: dict[str, np.ndarray] = {}
    exec(compile(block, "README.md", "exec"), names)
    np.testing.assert_allclose(names["c"], names["a"] @ names["b"], rtol=1e-4)
    assert names["o"].shape == names["q"].shape
    assert names["lse"].shape == names["q"].shape[:3]


def test_the_limit_of_the_readme_is_one(tmp_path):
    step = """
    schema = 1
    name = "example"
    [[step]]
    name = "matmul"
    workload = "kernel"
    cases = [{kernel = "matmul", dtype = "float64", m = 64, n = 64, k = 64}]
    """
    (block,) = blocks("README.md", "toml")
    (tmp_path / "contract.toml").write_text(textwrap.dedent(step) + block)
    (limit,) = load(str(tmp_path / "contract.toml")).step[0].limit
    assert (limit.at_least, limit.unit, limit.source) == (700, "GFLOP/s", "contract 2026-17, annex B, table 3")


def test_the_job_script_runs_the_command_that_the_readme_explains():
    *_, last = (ROOT / "benchmarks" / "accept.sbatch").read_text().splitlines()
    assert last == 'exec pyhpc accept "${@:-fabric}"'
    assert "fabric" in bundled()
