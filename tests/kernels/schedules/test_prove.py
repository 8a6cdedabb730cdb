from __future__ import annotations

import dataclasses

import pytest

from pyhpc.kernels.schedules.prove import ProofError, prove
from pyhpc.kernels.schedules.schedule import NOBODY, Algorithm, Copy, Path, Reduce, Send, algorithms, where

ALGORITHMS = list(algorithms().values())


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_every_schedule_is_an_all_reduce_with_the_formula_s_messages_volume_and_path_on_1_to_64_ranks(algorithm):
    for ranks in range(1, 65):
        proof = prove(algorithm, ranks)
        assert dataclasses.astuple(proof.path) == pytest.approx(dataclasses.astuple(algorithm.path(ranks)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 31])
def test_the_ring_sends_the_least_possible_volume(ranks):
    proof = prove(algorithms()["ring"], ranks)
    assert proof.volume == 2 * (ranks - 1)
    assert proof.steps == 2 * (ranks - 1)


@pytest.mark.parametrize(("ranks", "steps"), [(1, 0), (2, 1), (4, 2), (5, 4), (6, 4), (8, 3), (31, 6), (32, 5)])
def test_recursive_doubling_needs_log2_steps_and_two_more_to_fold(ranks, steps):
    assert prove(algorithms()["recursive_doubling"], ranks).steps == steps


def test_recursive_doubling_keeps_the_rank_order_and_the_ring_does_not():
    assert all(prove(algorithms()["recursive_doubling"], ranks).rank_order for ranks in range(1, 20))
    assert not prove(algorithms()["ring"], 3).rank_order


WHOLE = (0, 1)


def written_out(rounds, messages):
    """An algorithm of one chunk from the rounds of each rank."""

    def steps(rank, ranks):
        for number in range(max(map(len, rounds))):
            now = [(r, action) for r, mine in enumerate(rounds) for action in mine[number : number + 1]]
            yield tuple(
                dataclasses.replace(action, peer=where(rank == r, action.peer, NOBODY))
                for r, actions in now
                for action in actions
            )

    return Algorithm(
        "written_out", "", lambda p: 1, steps, lambda p: Path(0, 0, 0), lambda p: messages, lambda p: messages
    )


EXCHANGE = [((Send(1 - r, WHOLE, "input"), Reduce(1 - r, WHOLE, "input", own_is_left=r == 0)),) for r in range(2)]


def test_the_exchange_of_two_ranks_is_proved():
    assert prove(written_out(EXCHANGE, 2), 2).messages == 2


WRONG = {
    "deadlock, rank 1 waits for a message that rank 0 never sends": [
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
    "do not exist": [((Send(1, (1, 2), "input"),),), ((Copy(0, (1, 2)),),)],
    "rank that does not exist": [((Send(2, WHOLE, "input"),),), ()],
    "never received by rank 1": [(*EXCHANGE[0], (Send(1, WHOLE, "result"),)), EXCHANGE[1]],
    "result is read before": [
        ((Send(1 - r, WHOLE, "result"), Reduce(1 - r, WHOLE, "result", r == 0)),) for r in range(2)
    ],
    "input is read after": [
        (*e, (Send(1, WHOLE, "input"),) if r == 0 else (Copy(0, WHOLE),)) for r, e in enumerate(EXCHANGE)
    ],
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_schedule_is_refused_with_the_rule_it_breaks(sentence):
    with pytest.raises(ProofError, match=sentence):
        prove(written_out(WRONG[sentence], 2), 2)


def test_a_formula_that_does_not_count_what_is_sent_is_refused():
    with pytest.raises(ProofError, match="2 messages, and the formula says 3"):
        prove(written_out(EXCHANGE, 3), 2)
