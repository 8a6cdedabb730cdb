"""One body for every kernel × variant × example: right within the proven bound, nothing left unwritten."""

import numpy as np
import pytest

from pyhpc.kernels.kernel import Kernel, Problem, Variant, kernels

CASES = [
    pytest.param(kernel, variant, problem, id=f"{kernel.name} {variant.name} {problem.label}")
    for kernel in kernels().values()
    for variant in kernel.variants() + kernel.peers()
    for problem in kernel.examples
]


def run(variant: Variant, problem: Problem, threads: int) -> np.ndarray:
    reason = variant.reject(problem)
    if reason is not None:
        pytest.skip(f"{variant.name}: {reason}")
    inputs = problem.inputs()
    before = {name: array.tobytes() for name, array in inputs.items()}
    out = variant.output(problem) if variant.output else problem.output()
    arrays = variant.prepare(problem, inputs) if variant.prepare else inputs
    variant.run(problem, arrays, out, threads)
    if variant.collect:
        variant.collect(problem, arrays, out)
    assert {name: array.tobytes() for name, array in inputs.items()} == before, "an input was changed"
    return out


@pytest.mark.parametrize(("kernel", "variant", "problem"), CASES)
def test_every_variant_fulfils_the_contract(kernel: Kernel, variant: Variant, problem: Problem):
    if variant.device == "cuda":
        pytest.skip(variant.reject(problem) or "runs in the GPU tests")
    out = run(variant, problem, threads=0)
    check = problem.verify(out, problem.inputs())
    assert check.elements > 0
    assert check.passed, check.first_wrong


@pytest.mark.parametrize("kernel", kernels().values(), ids=list(kernels()))
def test_every_kernel_has_examples(kernel: Kernel):
    assert kernel.examples
    assert len({problem.label for problem in kernel.examples}) == len(kernel.examples), "labels are not unique"


@pytest.mark.parametrize("kernel", kernels().values(), ids=list(kernels()))
def test_a_problem_goes_to_json_and_back(kernel: Kernel):
    for problem in kernel.examples:
        assert kernel.problem(problem.to_json()) == problem
