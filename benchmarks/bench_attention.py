"""Attention forward: prefill with and without masks, grouped heads, decoding; every CPU variant beside its peers."""

from __future__ import annotations

from pyhpc.kernels.attention import AttentionProblem

KERNEL = "attention"


def problem(q_len, kv_len, dtype="float32", head_dim=64, kv_heads=8, **mask):
    return AttentionProblem(1, 8, kv_heads, q_len, kv_len, head_dim, dtype, **mask)


PROBLEMS = [
    problem(512, 512),
    problem(512, 512, causal=True),
    problem(512, 512, dtype="bfloat16"),
    problem(512, 512, head_dim=128, causal=True, window=128),
    problem(512, 512, kv_heads=2),
    problem(1, 2048, head_dim=128),  # decoding: one query row
]


def test_attention(measure, contestant):
    measure(contestant)
