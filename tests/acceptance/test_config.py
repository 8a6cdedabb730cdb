"""Suites: what is accepted, and that each thing which cannot be meant is refused in one sentence with its line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pyhpc.acceptance import config
from pyhpc.errors import ConfigError

GOOD = """schema = 1
name = "small"

[[step]]
name = "matmul"
workload = "kernel"
cases = [
  {kernel = "matmul", dtype = ["float32", "float64"], m = 64, n = 64, k = 64},
]
sampling = {min_samples = 10, max_samples = 100}

[[step.limit]]
metric = "flops_per_second"
unit = "GFLOP/s"
at_least = 5
at_most = 100.0
source = "contract, annex 2"
where = {dtype = "float32"}
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "suite.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(write, old, new):
    """The sentence (without the path) that GOOD gets with `old` replaced by `new`."""
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return str(caught.value).removeprefix(f"{path}:")


def test_a_suite_becomes_what_it_says(write):
    path = write(GOOD)
    suite = config.load(path)
    (step,) = suite.step
    (case,) = step.cases
    (limit,) = step.limit
    assert (suite.name, suite.path) == ("small", str(path))
    assert suite.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert case.kernel == "matmul"
    assert case.parameters == {"dtype": ["float32", "float64"], "m": 64, "n": 64, "k": 64}
    assert limit.where == {"dtype": "float32"}
    assert (step.line, case.line, limit.line) == (4, 8, 12)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("at_least = 5", "at_last = 5", "15: [[step.limit]] has no key 'at_last'; did you mean 'at_least'?"),
        ("workload =", "worklod =", "6: [[step]] has no key 'worklod'; did you mean 'workload'?"),
        ("min_samples", "minsamples", "10: sampling has no key 'minsamples'; did you mean 'min_samples'?"),
        ("name =", "naem =", "2: a suite has no key 'naem'; did you mean 'name'?"),
        ("schema = 1", "schema = 2", "1: schema = 2 should be 1"),
        (
            'source = "contract, annex 2"',
            "",
            "12: [[step.limit]] has no 'source': a limit must say",
        ),
        ('"contract, annex 2"', '"  "', "17: the source is empty"),
        ("at_least = 5\nat_most = 100.0", "", "12: a limit needs at_least or at_most (or both)"),
        ("at_least = 5", "at_least = 500", "12: at_least 500 is above at_most 100: nothing can pass"),
        ("at_least = 5", "at_least = 0", "12: a bound of 0 GFLOP/s limits nothing"),
        ("at_least = 5", "at_least = nan", "15: at_least = NaN should be a finite number"),
        ("at_least = 5", 'at_least = "5"', '15: at_least = "5" should be a valid number'),
        ("GFLOP/s", "GB/s", "12: unit 'GB/s' does not fit flops_per_second"),
        ("GFLOP/s", "fraction", "12: unit 'fraction' does not fit flops_per_second"),
        (
            "flops_per_second",
            "flop_per_second",
            "13: there is no metric 'flop_per_second'; did you mean",
        ),
        ("at_least = 5", 'at_least = 5\nof = "ceiling"', "12: unit 'GFLOP/s' does not fit of = \"ceiling\""),
        ("at_least = 5", 'at_least = 5\nof = "peak"', "16: of = \"peak\" should be 'ceiling'"),
        ("at_least = 5", 'at_least = 5\nstatistic = "mean"', "16: statistic = \"mean\" should be 'median', 'p05'"),
        (
            "at_least = 5",
            'at_least = 5\nstatistic = "p05"\nconfidence = 0.99',
            "4: the p05 at confidence 0.99",
        ),
        ("at_least = 5", "at_least = 5\nconfidence = 1.0", "16: confidence = 1.0 should be less than 1"),
        ("at_least = 5", "at_least = 5\nline = 7", "16: unknown key 'line'"),
        ("min_samples = 10", "min_samples = 1000", "4: min_samples 1000 is above max_samples 100"),
        ("min_samples = 10", "min_samples = 0", "10: min_samples = 0 should be greater than or equal to 1"),
        ('name = "matmul"', 'name = "matmul"\ntimeout_seconds = 0', "6: timeout_seconds = 0 should be greater than 0"),
        ('name = "matmul"', 'name = "a/b"', '5: name = "a/b" '),
        ('name = "matmul"', 'name = "matmul"\nranks_per_node = 0', "6: 0 is less than 1"),
        ('name = "matmul"', 'name = "matmul"\nranks_per_node = "core"', '6: ranks_per_node = "core"'),
        ('{kernel = "matmul", dtype = ["float32", "float64"], m = 64, n = 64, k = 64},', "", "7: cases is empty"),
        ('{kernel = "matmul",', '{kernel = "matmul", device = "gpu",', "8: device = \"gpu\" should be 'cpu' or 'cuda'"),
        ("name =", "name", "2: this is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(write, old, new, sentence):
    assert refusal(write, old, new).startswith(sentence)


def test_a_step_may_not_be_defined_twice(write):
    text = GOOD + GOOD[GOOD.index("[[step]]") :]
    with pytest.raises(ConfigError, match="19: step 'matmul' was already defined in line 4"):
        config.load(write(text))


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ("at_least = 1.1", "above the physical peak"),
        ("at_most = 20", "believes anything"),
    ],
)
def test_a_fraction_of_a_ceiling_has_sane_bounds(write, bounds, sentence):
    text = GOOD.replace("at_least = 5\nat_most = 100.0", f'of = "ceiling"\n{bounds}').replace("GFLOP/s", "fraction")
    with pytest.raises(ConfigError, match=sentence):
        config.load(write(text))


def test_a_file_that_is_not_text_names_the_line(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"schema = 1\nname = '\xff'\n")
    with pytest.raises(ConfigError, match=r"binary\.toml:2: the suite is not UTF-8"):
        config.load(path)


def test_a_missing_file_and_an_unknown_name_say_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="there is no such suite file"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        config.load("quik")


@pytest.mark.parametrize("name", sorted(config.bundled()))
def test_every_bundled_suite_is_valid_and_says_what_it_is_for(name):
    suite = config.load(config.bundled()[name])
    assert suite.description
    assert Path(suite.path).read_text(encoding="utf-8").startswith("# ")


def test_the_fewest_samples_are_the_ones_that_the_interval_needs():
    from pyhpc.measure.statistics import QUANTILES, interval_ranks

    for statistic, fraction in QUANTILES.items():
        for confidence in (0.9, 0.95, 0.975, 0.99):
            needed = config.samples_needed(statistic, confidence)
            assert None not in interval_ranks(needed, fraction, confidence)
            assert None in interval_ranks(needed - 1, fraction, confidence)
    assert config.samples_needed("min", 0.95) == 1
