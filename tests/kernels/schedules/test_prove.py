from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pyhpc.kernels.schedules.double_binary_tree import double_binary_tree
from pyhpc.kernels.schedules.hierarchical import hierarchical
from pyhpc.kernels.schedules.prove import ProofError, prove
from pyhpc.kernels.schedules.recursive_multiplying import recursive_multiplying
from pyhpc.kernels.schedules.schedule import NOBODY, Algorithm, Copy, Path, Reduce, Send, algorithms, where

ALGORITHMS = list(algorithms().values())


# Algorithms whose path depends on how ranks meet: their formula is an upper bound.
BOUNDED = ("double_binary_tree", "hierarchical")


def proved(algorithm, ranks):
    """The proof, whose path is the formula's."""
    proof = prove(algorithm, ranks)
    counted, formula = (np.array(dataclasses.astuple(path)) for path in (proof.path, algorithm.path(ranks)))
    if algorithm.name in BOUNDED:
        assert (counted <= formula * (1 + 1e-9)).all()
        assert (counted >= formula / 2).all()
    else:
        assert counted == pytest.approx(formula)
    return proof


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_every_schedule_is_an_all_reduce_with_the_formula_s_messages_volume_and_path_on_1_to_64_ranks(algorithm):
    for ranks in range(1, 65):
        proved(algorithm, ranks)


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        *(("recursive_doubling", p) for p in (127, 1537, 4096)),
        *(("recursive_multiplying", p) for p in (127, 1537, 4096)),
        *(("halving_doubling", p) for p in (127, 384, 1537, 4096)),
        *(("bine", p) for p in (127, 1537, 4096)),
        *(("swing", p) for p in (127, 1537)),
    ],
)
def test_the_schedules_of_logarithmically_many_steps_are_proved_up_to_4096_ranks(name, ranks):
    proved(algorithms()[name], ranks)


@pytest.mark.parametrize(("name", "ranks"), [("ring", 257), ("segmented_ring", 200), ("direct", 256)])
def test_the_schedules_of_as_many_messages_as_ranks_are_proved_on_hundreds_of_ranks(name, ranks):
    proved(algorithms()[name], ranks)


@pytest.mark.parametrize("ranks", [257, 1000, 4096])
def test_trees_and_hierarchies_are_proved_up_to_4096_ranks(ranks):
    proved(double_binary_tree(lambda ranks: 3), ranks)
    proved(hierarchical(16, 4), ranks)


@st.composite
def drawn(draw):
    """An algorithm and a number of ranks."""
    ranks = draw(st.integers(1, 80))
    in_node = draw(st.integers(1, 20))
    between = draw(st.sampled_from([a for a in ALGORITHMS if a.name != "hierarchical"]))
    segments = draw(st.integers(1, 9))
    made = [
        hierarchical(in_node, draw(st.integers(1, in_node)), between),
        recursive_multiplying(draw(st.integers(2, 9))),
        double_binary_tree(lambda ranks: segments),
    ]
    return draw(st.sampled_from([*made, made[0], *ALGORITHMS])), ranks


@settings(max_examples=40, deadline=None)
@given(drawn())
def test_any_algorithm_of_any_parameters_on_any_number_of_ranks_is_proved(algorithm_and_ranks):
    prove(*algorithm_and_ranks)


@settings(max_examples=40, deadline=None)
@given(drawn(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_one_rank_s_rounds_are_its_share_of_everybody_s(algorithm_and_ranks, one, other):
    algorithm, ranks = algorithm_and_ranks
    rank = one % ranks
    pair = np.array([rank, other % ranks])
    together = list(algorithm.steps(pair, ranks))
    alone = list(algorithm.steps(rank, ranks))
    assert len(together) == len(alone)
    for several, single in zip(together, alone, strict=True):
        assert [picked(action, 0) for action in several] == [picked(action, 0) for action in single]


def picked(action, place):
    """The action of the rank in this place, with plain values; None where it takes no part."""
    action = dataclasses.replace(action, chunks=tuple(one(edge, place) for edge in action.chunks))
    values = {field.name: one(getattr(action, field.name), place) for field in dataclasses.fields(action)}
    if "before" in values:
        values["before"] = tuple(peer for peer in values["before"] if one(peer, place) != NOBODY)
    return None if values["peer"] == NOBODY else type(action)(**values)


def one(value, place):
    if isinstance(value, tuple):
        return tuple(one(entry, place) for entry in value)
    return value[place].item() if isinstance(value, np.ndarray) else value


def changed(algorithm, change):
    """The algorithm with one action of rank 1 in the middle of its schedule changed, or dropped for None."""

    def steps(rank, ranks):
        whole = list(algorithm.steps(rank, ranks))
        middle = (len(whole) - 1) // 2
        for number, actions in enumerate(whole):
            yield tuple(split for action in actions for split in parts(action, rank)) if number == middle else actions

    def parts(action, rank):
        yield only(action, rank != 1)
        mine = change(action)
        if mine is not None:
            yield only(mine, rank == 1)

    def only(action, mask):
        before = {"before": tuple(where(mask, p, NOBODY) for p in action.before)} if isinstance(action, Reduce) else {}
        return dataclasses.replace(action, peer=where(mask, action.peer, NOBODY), **before)

    return dataclasses.replace(algorithm, steps=steps)


def drop_sends(action):
    return None if isinstance(action, Send) else action


def drop_receives(action):
    return action if isinstance(action, Send) else None


def next_chunk(action):
    return dataclasses.replace(action, chunks=tuple(edge + 1 for edge in action.chunks))


def other_buffer(action):
    if isinstance(action, Send):
        return dataclasses.replace(action, source=where(np.asarray(action.source) == "input", "result", "input"))
    return action


def swap_operands(action):
    return (
        dataclasses.replace(action, own_is_left=~np.asarray(action.own_is_left))
        if isinstance(action, Reduce)
        else action
    )


@pytest.mark.parametrize("change", [drop_sends, drop_receives, next_chunk, other_buffer], ids=lambda c: c.__name__)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_a_schedule_with_one_rank_s_step_changed_is_refused(algorithm, change):
    prove(changed(algorithm, lambda action: action), 16)
    with pytest.raises(ProofError):
        prove(changed(algorithm, change), 16)


@pytest.mark.parametrize("name", ["recursive_doubling", "recursive_multiplying"])
def test_operands_swapped_on_one_rank_are_found(name):
    with pytest.raises(ProofError, match="different expressions"):
        prove(changed(algorithms()[name], swap_operands), 16)


def test_operands_swapped_where_a_chunk_is_combined_once_lose_the_rank_order():
    assert prove(algorithms()["direct"], 3).rank_order
    assert not prove(swapped(algorithms()["direct"]), 3).rank_order


def swapped(algorithm):
    return dataclasses.replace(
        algorithm, steps=lambda rank, ranks: (tuple(map(swap_operands, step)) for step in algorithm.steps(rank, ranks))
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 31])
def test_the_ring_sends_the_least_possible_volume(ranks):
    proof = prove(algorithms()["ring"], ranks)
    assert proof.volume == 2 * (ranks - 1)
    assert proof.steps == 2 * (ranks - 1)


@pytest.mark.parametrize(("ranks", "steps"), [(1, 0), (2, 1), (4, 2), (5, 4), (6, 4), (8, 3), (31, 6), (32, 5)])
def test_recursive_doubling_needs_log2_steps_and_two_more_to_fold(ranks, steps):
    assert prove(algorithms()["recursive_doubling"], ranks).steps == steps


@pytest.mark.parametrize(
    "name", ["recursive_doubling", "recursive_multiplying", "halving_doubling", "direct", "hierarchical"]
)
def test_what_says_so_combines_in_rank_order(name):
    assert all(prove(algorithms()[name], ranks).rank_order for ranks in range(1, 20))


def test_the_ring_does_not_combine_in_rank_order():
    assert not prove(algorithms()["ring"], 3).rank_order


def test_more_leaders_than_ranks_in_a_node_are_refused():
    with pytest.raises(ValueError, match="5 leaders in a node of 4 ranks"):
        hierarchical(4, 5)


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
