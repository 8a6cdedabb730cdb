"""The peak contract: every variant that runs fulfils it, and a missing operation is seen."""

from __future__ import annotations

import pytest

from pyhpc.errors import ConfigError
from pyhpc.kernels import peak
from pyhpc.kernels.kernel import Variant
from pyhpc.native import cpu

ON_CPU = [variant for variant in peak.KERNEL.variants() if variant.device == "cpu"]


@pytest.mark.parametrize("variant", ON_CPU, ids=lambda variant: variant.name)
@pytest.mark.parametrize("dtype", peak.DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_variant_counts_every_operation_or_says_why_it_cannot_run(variant, dtype, threads):
    problem = peak.PeakProblem(dtype, blocks=3)
    if reason := variant.reject(problem):
        pytest.skip(reason)
    out = problem.output()
    variant.run(problem, problem.inputs(), out, threads)
    assert problem.verify(out, {}).passed


def test_the_poisoned_output_and_a_missing_operation_are_wrong():
    problem = peak.PeakProblem("float32")
    out = problem.output()
    assert not problem.verify(out, {}).passed
    out[0] = problem.flops
    assert problem.verify(out, {}).passed
    out[0] -= 4
    check = problem.verify(out, {})
    assert not check.passed
    assert "instead of" in (check.first_wrong or "")


@pytest.mark.parametrize("dtype", peak.DTYPES)
def test_each_type_is_multiplied_by_the_gpu_and_only_those_of_processors_by_them(dtype):
    usable = [variant for variant in ON_CPU if variant.reject(peak.PeakProblem("float32")) is None]
    assert {variant.reject(peak.on_gpu(dtype)) is None for variant in usable} == {dtype in peak.CPU_DTYPES}
    sm90, sm80 = (peak._of_cuda(Variant(name, "cuda", lambda problem: None, print)) for name in ("sm90", "sm80"))
    assert (sm90.reject(peak.on_gpu(dtype)) is None) == (dtype != "float32")
    assert (sm80.reject(peak.on_gpu(dtype)) is None) == (dtype != "float8_e4m3fn")


def test_the_block_is_the_one_of_the_native_loops():
    assert cpu().peak.block_operations == peak.BLOCK_OPERATIONS


def test_a_problem_goes_to_json_and_back_and_is_named_by_its_dtype():
    problem = peak.saturating("float64", threads=3)
    assert problem.flops == 3 * 256 * peak.BLOCK_OPERATIONS
    assert peak.KERNEL.problem(problem.to_json()) == problem
    assert problem.label == problem.ceiling == "float64"


@pytest.mark.parametrize(
    "values", [{"dtype": "float8"}, {"dtype": "float32", "blocks": 0}, {"dtype": "float32", "size": 1}, {}]
)
def test_a_value_out_of_range_is_a_config_error(values):
    with pytest.raises(ConfigError, match="peak"):
        peak.KERNEL.problem(values)
