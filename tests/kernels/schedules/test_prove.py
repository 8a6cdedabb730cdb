from __future__ import annotations

import dataclasses

import pytest

from pyhpc.kernels.schedules.prove import ProofError, prove
from pyhpc.kernels.schedules.schedule import Algorithm, Copy, Path, Reduce, Send, algorithms

ALGORITHMS = list(algorithms().values())


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_every_schedule_is_an_all_reduce_with_the_formula_s_message_count_on_1_to_32_ranks(algorithm):
    for ranks in range(1, 33):
        assert prove(algorithm, ranks).messages == algorithm.messages(ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 31])
def test_the_ring_sends_the_least_possible_volume(ranks):
    proof = prove(algorithms()["ring"], ranks)
    assert proof.chunks_sent == 2 * ranks * (ranks - 1)  # of 1/p of a vector each
    assert proof.rounds == algorithms()["ring"].path(ranks).messages


@pytest.mark.parametrize(("ranks", "rounds"), [(1, 0), (2, 1), (4, 2), (5, 4), (6, 4), (8, 3), (31, 6), (32, 5)])
def test_recursive_doubling_needs_log2_rounds_and_two_more_to_fold(ranks, rounds):
    proof = prove(algorithms()["recursive_doubling"], ranks)
    assert proof.rounds == rounds == algorithms()["recursive_doubling"].path(ranks).messages


def test_recursive_doubling_keeps_the_rank_order_and_the_ring_does_not():
    assert all(prove(algorithms()["recursive_doubling"], ranks).rank_order for ranks in range(1, 20))
    assert not prove(algorithms()["ring"], 3).rank_order


WHOLE = (0, 1)


def two_ranks(rounds):
    return Algorithm(
        "wrong", "", lambda ranks: 1, lambda rank, ranks: rounds[rank], lambda ranks: Path(0, 0, 0), lambda ranks: 0
    )


EXCHANGE = [((Send(1 - r, WHOLE, "input"), Reduce(1 - r, WHOLE, "input", own_is_left=r == 0)),) for r in range(2)]


def test_the_exchange_of_two_ranks_is_proved():
    assert prove(two_ranks(EXCHANGE), 2).messages == 2


WRONG = {
    "deadlock": [
        ((Reduce(1, WHOLE, "input", True),), (Send(1, WHOLE, "result"),)),
        ((Copy(0, WHOLE),), (Send(0, WHOLE, "input"),)),
    ],
    "without every rank's contribution": [((Send(1, WHOLE, "input"),),), ((Reduce(0, WHOLE, "input", True),),)],
    "different expressions": [EXCHANGE[0], ((Send(0, WHOLE, "input"), Reduce(0, WHOLE, "input", own_is_left=True)),)],
    "counted twice": [
        (*e, (Send(1 - r, WHOLE, "result"), Reduce(1 - r, WHOLE, "result", r == 0))) for r, e in enumerate(EXCHANGE)
    ],
    "races": [((Send(1, WHOLE, "input"), Copy(1, WHOLE)),), ((Send(0, WHOLE, "input"), Copy(0, WHOLE)),)],
    "is sent chunks": [((Send(1, WHOLE, "input"),),), ((Reduce(0, (0, 2), "input", True),),)],
    "do not exist": [((Send(1, (1, 2), "input"),),), ((Copy(0, WHOLE),),)],
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_schedule_is_refused_with_the_rule_it_breaks(sentence):
    with pytest.raises(ProofError, match=sentence):
        prove(two_ranks(WRONG[sentence]), 2)


def test_a_result_that_is_read_before_it_is_written_is_refused_although_it_would_work_in_place():
    rounds = [((Send(1 - r, WHOLE, "result"), Reduce(1 - r, WHOLE, "result", r == 0)),) for r in range(2)]
    with pytest.raises(ProofError, match="before they are written"):
        prove(two_ranks(rounds), 2)


def test_a_send_that_nobody_receives_never_ends():
    rounds = [(*EXCHANGE[0], (Send(1, WHOLE, "result"),)), EXCHANGE[1]]
    with pytest.raises(ProofError, match="deadlock: rank 0 round 1"):
        prove(two_ranks(rounds), 2)


def test_swapping_two_actions_of_the_ring_is_found():
    ring = algorithms()["ring"]

    def crossed(rank, ranks):
        rounds = list(ring.rounds(rank, ranks))
        rounds[1], rounds[2] = rounds[2], rounds[1]
        return tuple(rounds)

    with pytest.raises(ProofError):
        prove(dataclasses.replace(ring, rounds=crossed), 4)
