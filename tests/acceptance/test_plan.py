"""Plans: alternatives, variants, ranks, ceilings and refusals, decided before anything runs."""

from __future__ import annotations

import pytest

from pyhpc.acceptance import config
from pyhpc.acceptance.plan import Plan
from pyhpc.acceptance.planner import make_plan
from pyhpc.errors import ConfigError
from pyhpc.machine import probe

HEAD = 'schema = 1\nname = "test"\n[[step]]\nname = "matmul"\nworkload = "kernel"\n'
PEAK = '[[step]]\nname = "peak"\nworkload = "kernel"\ncases = [{kernel = "peak", dtype = "float32"}]\n'
MATMUL = 'cases = [{kernel = "matmul", dtype = ["float32", "float64"], m = [8, 16], n = 8, k = 8}]\n'
LIMIT = '[[step.limit]]\nmetric = "flops_per_second"\nunit = "GFLOP/s"\nat_least = 1\nsource = "test"\n'
RELATIVE = LIMIT.replace('"GFLOP/s"', '"fraction"\nof = "ceiling"\nwhere = {dtype = "float32"}')


@pytest.fixture
def plan_of(tmp_path):
    def plan_of(text, launcher="mpiexec", **options):
        path = tmp_path / "suite.toml"
        path.write_text(text)
        machine = probe().model_copy(update={"cores": 2, "gpus": (), "gpu_absence": "no driver"})
        return make_plan(config.load(path), machine, launcher, **options)

    return plan_of


def test_lists_are_multiplied_out_and_every_case_has_a_variant_and_its_work(plan_of):
    (step,) = plan_of(HEAD + MATMUL).steps
    assert [(c.problem["dtype"], c.problem["m"]) for c in step.cases] == [
        ("float32", 8),
        ("float32", 16),
        ("float64", 8),
        ("float64", 16),
    ]
    assert [c.flops for c in step.cases] == [1024, 2048, 1024, 2048]
    assert all(c.skip is None and c.variant in c.name for c in step.cases)


def test_ceilings_come_first_and_bound_the_cases_of_their_dtype(plan_of):
    plan = plan_of(HEAD + MATMUL + RELATIVE + PEAK)
    assert [step.name for step in plan.steps] == ["peak", "matmul"]
    peak = plan.steps[0].cases[0]
    for case in plan.steps[1].cases:
        expected = f"peak/{peak.name}" if case.problem["dtype"] == "float32" else None
        assert case.ceilings.get("flops_per_second") == expected


def test_a_plan_comes_back_from_json_and_prints_itself(plan_of):
    plan = plan_of(HEAD + MATMUL + RELATIVE + PEAK)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert "flops_per_second under peak/" in str(plan)
    assert plan.seconds > 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD.replace("kernel", "kernal") + MATMUL, ":3: there is no workload 'kernal'; did you mean 'kernel'?"),
        (HEAD + MATMUL.replace("matmul", "matmull"), ":6: there is no kernel 'matmull'; did you mean 'matmul'?"),
        (HEAD + MATMUL.replace("k = 8", "q = 8"), ":6: kernel matmul has no parameter 'q'"),
        (HEAD + MATMUL.replace(", k = 8", ""), ":6: kernel matmul needs k as well"),
        (HEAD + 'cases = [{kernel = "memory", m = 8}]', ":6: kernel memory has no parameter 'm'; it has op, "),
        (HEAD + MATMUL.replace("float64", "float63"), ":6: kernel matmul: "),
        (HEAD + MATMUL.replace("m = [8, 16]", "m = 0"), ":6: kernel matmul: "),
        (HEAD + MATMUL.replace("m = [8, 16]", "m = []"), ":6: an empty list"),
        (HEAD + MATMUL.replace("m = [8, 16]", "m = [8, 8]"), ":3: step 'matmul' has the case"),
        (HEAD + MATMUL.replace("k = 8", 'k = 8, variant = "none"'), ":6: kernel matmul has no variant 'none'"),
        (HEAD + MATMUL + LIMIT.replace("= 1", "= 1e9"), ":7: at_least = 1e+09 GFLOP/s is above the physical peak"),
        (HEAD + MATMUL + RELATIVE, ":7: nothing measures the ceiling of flops_per_second"),
        (HEAD + MATMUL + RELATIVE.replace("float32", "int8") + PEAK, ":7: no case of step 'matmul' has dtype = 'int8'"),
        (
            HEAD + MATMUL + LIMIT.replace("flops_per_second", "busbw").replace("GFLOP", "GB"),
            ":7: workload kernel does not",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(plan_of, text, sentence):
    with pytest.raises(ConfigError) as caught:
        plan_of(text)
    assert sentence in str(caught.value)


def test_gpu_steps_are_skipped_with_the_reason_where_there_is_none(plan_of):
    (step,) = plan_of(HEAD + 'ranks_per_node = "gpus"\n' + MATMUL).steps
    assert "no driver" in step.skip


def test_cores_are_ranks_and_share_the_threads(plan_of):
    (step,) = plan_of(HEAD + 'ranks_per_node = "cores"\n' + MATMUL).steps
    assert (step.ranks, step.threads, step.subjects) == (2, 1, (0, 1))
    (step,) = plan_of(HEAD + 'ranks_per_node = "cores"\n' + MATMUL, ranks=5).steps
    assert step.ranks == 5
    assert "take turns" in step.notes[0]


def test_a_world_that_is_too_small_skips_the_step(plan_of):
    (step,) = plan_of(HEAD + "ranks_per_node = 4\n" + MATMUL, launcher="inline", ranks=2).steps
    assert step.skip == "it wants 4 ranks and was started with 2"


def test_a_collective_is_one_subject_and_refuses_a_single_rank(plan_of):
    text = HEAD.replace('workload = "kernel"', 'workload = "allreduce"') + "cases = [{elements = 2}]\n"
    alone = plan_of(text).steps[0]
    assert "at least two ranks" in alone.skip
    together = plan_of(text.replace("cases", 'ranks_per_node = "cores"\ncases')).steps[0]
    assert together.subjects == (-1,)
    assert together.cases[0].problem["ranks"] == 2
    assert together.cases[0].message_bytes == 8


def test_an_all_reduce_takes_an_order_a_buffer_and_an_algorithm(plan_of):
    text = HEAD.replace('"kernel"', '"allreduce"\nranks_per_node = "cores"')
    (step,) = plan_of(
        text
        + 'cases = [{elements = 2, order = ["fast", "invariant"], buffer = "window", algorithm = ["ring", "mpi"]}]\n'
    ).steps
    assert [(c.variant, c.problem["order"], c.problem["buffer"]) for c in step.cases] == [
        (name, order, "window") for order in ("fast", "invariant") for name in ("ring", "mpi")
    ]
    assert step.cases[2].name == "float32 sum 2 on 2 ranks invariant window ring"


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ('order = "quick"', "order is 'quick'; it must be one of fast, repeatable, invariant"),
        ('buffer = "gpu"', "buffer is 'gpu'; it must be one of ordinary, window"),
        ('algorithm = "pigeon"', "there is no all-reduce algorithm 'pigeon'"),
        ('algorithm = "ring", variant = "mpi"', "algorithm = 'ring' and variant = 'mpi' say the same"),
        ('order = "invariant", op = "prod"', "a product of float32 has no invariant order"),
        ('order = "repeatable", algorithm = "mpi"', "an MPI library promises no repeatable order"),
    ],
)
def test_an_all_reduce_that_cannot_be_is_an_error_with_its_line(plan_of, case, sentence):
    text = HEAD.replace('"kernel"', '"allreduce"\nranks_per_node = "cores"') + f"cases = [{{elements = 2, {case}}}]\n"
    with pytest.raises(ConfigError, match=rf"suite.toml:\d+: .*{sentence}"):
        plan_of(text)


def test_a_limit_raises_the_sample_count_to_what_its_statistic_needs(plan_of):
    (step,) = plan_of(HEAD + MATMUL + LIMIT + 'statistic = "p05"\n').steps
    assert step.sampling.min_samples == 72


def test_the_quick_suite_plans_here_and_every_required_case_can_run():
    plan = make_plan(config.load("quick"), probe(), "mpiexec", ranks=2)
    assert [c.name for s in plan.steps if s.required for c in s.cases if s.skip or c.skip] == []
    assert plan.seconds < 180


def test_judging_by_another_suite_keeps_what_was_decided_where_it_was_measured(plan_of, tmp_path):
    text = HEAD + MATMUL
    plan = plan_of(text)
    elsewhere = plan.steps[0].cases[0].model_copy(update={"variant": "sve2", "name": "elsewhere"})
    stored = plan.model_copy(
        update={"steps": (plan.steps[0].model_copy(update={"cases": (elsewhere, *plan.steps[0].cases[1:])}),)}
    )
    again = plan_of(text, measured=stored)
    assert again.steps[0].cases[0].variant == "sve2"
