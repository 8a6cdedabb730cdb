"""The barriers of the sm90 matmul, in every order in which its blocks can act (cuda_protocol.cpp)."""

from __future__ import annotations

import ctypes

import pytest

BUGS = {
    "no_empty_wait": "a stage is",
    "early_release": "a stage is overwritten while it is read",
    "own_consumers_only": "a stage is overwritten while it is read",
    "wrong_parity": "nobody can go on",
    "no_final_wait": "a block that has left",
    "no_expected_bytes": "a stage is read that holds something else",
}  # in the order of Bug, cuda_protocol.cpp → what it leads to


@pytest.fixture(scope="module")
def explore(compiled):
    library = compiled("cuda_protocol")
    library.explore.restype, library.fault.restype = ctypes.c_int64, ctypes.c_char_p

    def run(stages, blocks, products, bug=0):
        states = library.explore(stages, blocks, products, bug)
        return states, library.fault().decode()

    return run


@pytest.mark.parametrize(("stages", "blocks"), [(2, 1), (3, 1), (4, 1), (2, 2)])
def test_no_order_of_events_deadlocks_or_overwrites_a_stage_in_use(explore, stages, blocks):
    states, fault = explore(stages, blocks, 3 * stages)  # three turns around the ring: every parity twice
    assert fault == ""
    assert states > 100


def test_one_stage_is_too_few_because_a_stage_is_released_after_the_next_is_read(explore):
    assert explore(1, 1, 3)[1] == "nobody can go on"


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(explore, bug):
    assert explore(2, 2, 5, 1 + list(BUGS).index(bug))[1].startswith(BUGS[bug])
