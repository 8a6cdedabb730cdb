"""Shapes as typed: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from pyhpc.bench import shapes
from pyhpc.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("3x4x5", {"m": 3, "n": 4, "k": 5, "batch": 1}),
        ("2x3x4x5", {"m": 3, "n": 4, "k": 5, "batch": 2}),
        ("3x4x5:tn", {"m": 3, "n": 4, "k": 5, "batch": 1, "transpose_a": True, "transpose_b": False}),
        ("m=3:n=4:k=5:transpose_b=true", {"m": 3, "n": 4, "k": 5, "transpose_b": True}),
    ],
)
def test_matmul_shapes_are_m_n_k_with_an_optional_batch_and_order(text, fields):
    assert shapes._fields("matmul", text) == fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("1x16x2048x128", (1, 16, 16, 2048, 2048, 128, {})),
        ("2x32/8x1/4096x64:causal", (2, 32, 8, 1, 4096, 64, {"causal": True})),
        ("1x1x7x16:window=3:causal", (1, 1, 1, 7, 7, 16, {"causal": True, "window": 3})),
    ],
)
def test_attention_shapes_are_batch_heads_length_dim_with_grouped_heads_keys_and_masks(text, fields):
    names = ("batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim")
    assert shapes._fields("attention", text) == dict(zip(names, fields, strict=False)) | fields[-1]


@pytest.mark.parametrize(
    ("kernel", "text", "word"),
    [
        ("matmul", "1024", "MxNxK"),
        ("matmul", "ax2x3", "MxNxK"),
        ("matmul", "1x2x3x4x5", "MxNxK"),
        ("matmul", "1x2x3:xx", "nn, nt, tn, tt"),
        ("matmul", "", "MxNxK"),
        ("attention", "1x2x3", "BATCHxHEADS"),
        ("attention", "1x8/2/1x3x64", "BATCHxHEADS"),
        ("attention", "1x2x3x64:masked", "causal"),
        ("attention", "1x2x3x64:window=-1", "window"),
        ("peak", "12", "field=value"),
        ("matmul", "m=1:n", "field=value"),
    ],
)
def test_a_shape_that_cannot_be_read_is_answered_with_one_that_can(kernel, text, word):
    with pytest.raises(ConfigError, match=word):
        shapes._fields(kernel, text)


def test_every_shape_comes_in_every_dtype():
    found = shapes.problems("peak", ["blocks=1", "blocks=2"], ["float32", "int8"])
    assert [(problem.dtype, problem.blocks) for problem in found] == [
        ("float32", 1),
        ("float32", 2),
        ("int8", 1),
        ("int8", 2),
    ]


def test_unknown_kernels_fields_and_values_are_refused():
    with pytest.raises(ConfigError, match="no kernel 'fft'"):
        shapes.problems("fft", ["1"], ["float32"])
    with pytest.raises(ConfigError, match="no parameter 'm'"):
        shapes.problems("peak", ["m=1"], ["float32"])
    with pytest.raises(ConfigError, match="at least 1"):
        shapes.problems("peak", ["blocks=0"], ["float32"])
    with pytest.raises(ConfigError, match="no default shapes"):
        shapes.problems("peak", [], ["float32"])


def test_the_full_tables_of_attention_have_masks_groups_decoding_and_every_dtype():
    full = shapes.problems("attention", ["full"], [])
    assert {problem.dtype for problem in full} == {"float32", "bfloat16", "float16"}
    assert {problem.q_len for problem in full} >= {1, 512, 2048, 8192}
    assert any(problem.window for problem in full)
    assert any(problem.causal and problem.kv_heads < problem.heads for problem in full)
    backward = shapes.problems("attention_backward", ["full"], ["bfloat16"])
    assert {problem.kernel for problem in backward} == {"attention_backward"}
    assert all(problem.q_len > 1 and problem.dtype == "bfloat16" for problem in backward)


def test_the_full_table_has_every_dtype_and_its_shapes_may_be_mixed_with_others():
    full = shapes.problems("matmul", ["full"], [])
    assert {problem.dtype for problem in full} == {"float64", "float32", "bfloat16", "float16", "int8"}
    assert {problem.m for problem in full if problem.dtype == "int8"} >= {1, 4, 16, 64, 128, 256, 4096}
    mixed = shapes.problems("matmul", ["quick", "3x4x5"], [])
    assert [problem.label for problem in mixed] == [
        "float32 1024x1024x1024",
        "float32 1x4096x4096",
        "float32 3x4x5",
    ]
