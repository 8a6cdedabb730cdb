"""The registry, and choosing a variant."""

from dataclasses import dataclass

import numpy as np
import pytest

from pyhpc.errors import ConfigError
from pyhpc.kernels.kernel import Check, Kernel, Problem, Variant, kernels
from pyhpc.kernels.matmul_problem import MatmulProblem
from pyhpc.kernels.verification import Tally


def nothing(*arguments: object) -> None:
    """Stands for a variant's run."""


KERNEL = Kernel(
    "matmul",
    "C = A B",
    MatmulProblem,
    lambda: (
        Variant("fast", "cpu", lambda problem: "it is too fast", nothing),
        Variant("slow", "cpu", lambda problem: None, nothing),
        Variant("gpu", "cuda", lambda problem: "CUDA is absent", nothing),
    ),
    lambda: (Variant("peer", "cpu", lambda problem: None, nothing),),
)
PROBLEM = MatmulProblem(2, 2, 2, "float32")


def test_the_best_variant_is_the_first_that_takes_the_problem(monkeypatch):
    monkeypatch.delenv("PYHPC_VARIANT", raising=False)
    assert KERNEL.best(PROBLEM).name == "slow"
    with pytest.raises(ConfigError, match=r"no cuda variant of matmul takes float32 2x2x2 \(gpu: CUDA is absent\)"):
        KERNEL.best(PROBLEM, "cuda")


def test_the_environment_forces_a_variant(monkeypatch):
    monkeypatch.setenv("PYHPC_VARIANT", "fast")
    with pytest.raises(ConfigError, match=r"\(fast: it is too fast\)"):
        KERNEL.best(PROBLEM)
    monkeypatch.setenv("PYHPC_VARIANT", "gpu")  # says nothing about the CPU
    assert KERNEL.best(PROBLEM).name == "slow"
    monkeypatch.setenv("PYHPC_VARIANT", "none-such")
    with pytest.raises(ConfigError, match="has no variant 'none-such'; it has fast, slow, gpu, peer"):
        KERNEL.best(PROBLEM)


def test_a_variant_or_peer_is_found_by_name():
    assert KERNEL.variant("peer").name == "peer"
    with pytest.raises(ConfigError, match="kernel matmul has no variant 'avx'; it has fast, slow, gpu, peer"):
        KERNEL.variant("avx")


def test_a_problem_from_a_suite_is_validated():
    assert KERNEL.problem({"m": 1, "n": 2, "k": 3, "dtype": "int8"}) == MatmulProblem(1, 2, 3, "int8")
    with pytest.raises(ConfigError, match="kernel matmul has no parameter 'size'; it has m, n, k, dtype"):
        KERNEL.problem({"size": 1})
    with pytest.raises(ConfigError, match="kernel matmul: m is 0; it must be"):
        KERNEL.problem({"m": 0, "n": 2, "k": 3, "dtype": "int8"})
    with pytest.raises(ConfigError, match="kernel matmul needs n, k, dtype as well"):
        KERNEL.problem({"m": 1})


def test_a_check_of_nothing_has_not_passed():
    assert not Check(elements=0, wrong=0, worst=0.0, method="").passed
    assert Check(elements=1, wrong=0, worst=0.5, method="").passed
    assert not Check(elements=2, wrong=1, worst=2.0, method="").passed


def test_every_kernel_has_its_name_a_formula_and_variants_of_both_devices():
    assert {"attention", "matmul", "peak"} <= set(kernels())
    for name, kernel in kernels().items():
        assert (kernel.name, kernel.problem_type.kernel) == (name, name)
        assert kernel.summary
        names = [variant.name for variant in kernel.variants() + kernel.peers()]
        assert len(set(names)) == len(names)
    assert {variant.device for variant in kernels()["matmul"].variants()} == {"cpu", "cuda"}


def test_a_tally_finds_what_is_beyond_the_tolerance_and_stays_finite():
    reference = np.zeros((2, 3))
    for value, worst in ((0.5, 0.5), (1.5, 1.5), (np.nan, np.finfo(float).max), (np.inf, np.finfo(float).max)):
        tally = Tally()
        result = reference.copy()
        result[1, 2] = value
        tally.compare(result, reference, np.ones((2, 3)), "c", (10, 0))
        check = tally.check("test")
        assert (check.elements, check.worst, check.passed) == (6, worst, value == 0.5)
        if not check.passed:
            assert check.first_wrong == f"c[11, 2] is {float(value)!r}, expected 0.0 ± 1"
    exact = Tally()
    exact.compare(reference, reference, reference, "c", (0, 0))
    assert exact.check("exact").worst == 0.0


def test_a_problem_type_must_say_everything():
    @dataclass(frozen=True)
    class Incomplete(Problem):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
