"""Formats of a comparison: the table says it all, JSON loses nothing, the picture is a picture."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pyhpc.bench.comparison import Comparison, summarise
from pyhpc.bench.plot import check_path, write_plot
from pyhpc.bench.render import print_comparison, print_summary, rate_text, write_json
from pyhpc.errors import ConfigError
from pyhpc.machine import probe


@pytest.fixture
def comparison(row, steady):
    rows = summarise(
        [
            row("avx512", "ours", steady(1e-3), flops=10**8),
            row("numpy", "peer", steady(2e-3), flops=10**8),
            row("torch", "peer", {}, error="the process was killed by SIGSEGV [core]"),
            row("peak", "ceiling", steady(0.8e-3), flops=10**8, kernel="peak"),
        ],
        0,
    )
    return Comparison(
        kernel="matmul", machine=probe(), contestants=("best",), rounds=7, started=1.0, finished=2.0, rows=tuple(rows)
    )


def test_the_table_states_rate_interval_limit_ratio_and_every_failure(comparison):
    text = io.StringIO()
    print_comparison(comparison, Console(file=text, width=160))
    printed = text.getvalue()
    ours = next(line for line in printed.splitlines() if "avx512" in line)
    assert "100" in ours
    assert "80.0 [80.0, 80.0]" in ours
    assert "2.00 [2.00, 2.00]" in ours
    assert "% of peak float32" in printed
    assert "× numpy" in printed
    assert "the process was killed by SIGSEGV [core]" in printed
    assert "peak float32" in printed


@pytest.mark.parametrize(("others", "warned"), [(0.1, False), (0.4, True)])
def test_a_busy_machine_is_told_under_the_table(comparison, row, steady, others, warned):
    text = io.StringIO()
    rows = (row("avx512", "ours", steady(1e-3), others=others),)
    print_comparison(comparison.model_copy(update={"rows": rows}), Console(file=text, width=160))
    assert ("took up to 40% of these cores" in text.getvalue()) == warned


def test_json_is_the_whole_comparison(comparison, tmp_path):
    write_json(comparison, tmp_path / "found.json")
    assert Comparison.model_validate_json((tmp_path / "found.json").read_text()) == comparison
    with pytest.raises(ConfigError, match="cannot be written"):
        write_json(comparison, tmp_path / "absent" / "found.json")


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_plot_has_the_format_its_ending_says(comparison, tmp_path, ending, start):
    write_plot(comparison, tmp_path / f"found.{ending}")
    content = (tmp_path / f"found.{ending}").read_bytes()
    assert content.startswith(start)
    assert len(content) > 5000


def test_a_path_that_cannot_hold_a_plot_is_refused_before_measuring(tmp_path):
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        check_path(tmp_path / "found.jpeg")
    with pytest.raises(ConfigError, match="no folder"):
        check_path(tmp_path / "absent" / "found.png")


@pytest.mark.parametrize(
    ("rate", "text"), [(1.234e9, "1.23"), (23e9, "23.0"), (99.96e9, "100"), (431.6e9, "432"), (5e6, "0.00500")]
)
def test_rates_have_three_digits(rate, text):
    assert rate_text(rate) == text


def test_the_summary_has_a_line_for_each_problem_and_each_reason_once(comparison):
    text = io.StringIO()
    again = tuple(row.model_copy(update={"threads": 2}) for row in comparison.rows)
    print_summary(comparison.model_copy(update={"rows": comparison.rows + again}), Console(file=text, width=160))
    lines = [line.split() for line in text.getvalue().splitlines()]
    header = next(line for line in lines if line[:1] == ["problem"])
    assert header[-2:] == ["numpy", "torch"]
    first, second = (line for line in lines if line[:1] == ["float32"])
    assert first == ["float32", "1", "100", "80%", "peak", "2.00", "numpy", "50.0"]
    assert second == ["float32", "2", *first[2:]]
    assert [line[0] for line in lines if line][-1] == "torch:"
    assert sum(line[:1] == ["torch:"] for line in lines) == 1
