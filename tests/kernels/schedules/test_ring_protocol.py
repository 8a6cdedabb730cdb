"""Every interleaving of the ring's protocol (csrc/allreduce/ring.h), by an explicit-state model with weak ordering.

One writer sends messages 0, 1, … through `LINES` lines; the bytes of message k go to a place of their own ring of
`places` (a line's own bytes, where places = LINES; the slots that lines announce otherwise). A processor's stores reach
memory in any order, except that a release store comes after all earlier ones; a load that follows an acquire load comes
after it, and is made at any time until a release store of its own processor orders it. Each rule can be broken, to see
that the model finds it.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

LINES, MESSAGES = 2, 5


class State(NamedTuple):
    sent: int = 0  # messages whose stores the writer has issued
    pending: tuple = ()  # the writer's stores on their way to memory: (kind, index, value), in program order
    places: tuple = ()  # memory: the bytes, each the number of the message they belong to
    words: tuple = (-1,) * LINES
    consumed: int = 0
    reader: int = 0  # messages whose word the reader has seen
    loads: tuple = ()  # messages whose bytes it has yet to load
    published: int = 0  # what it has stored to `consumed`, or is about to


class WrongBytesError(Exception):
    pass


def after_commit(state, position):
    kind, index, value = state.pending[position]
    left = state.pending[:position] + state.pending[position + 1 :]
    memory = list(getattr(state, kind))
    memory[index] = value
    return state._replace(pending=left, **{kind: tuple(memory)})


def successors(state, places, broken):
    # The writer issues a message when its line and its place are free.
    ahead = min(LINES, places) if broken != "no look at consumed" else MESSAGES
    if state.sent < MESSAGES and state.sent - state.consumed < ahead:
        stores = (("places", state.sent % places, state.sent), ("words", state.sent % LINES, state.sent))
        yield state._replace(sent=state.sent + 1, pending=state.pending + stores)
    # A store reaches memory; a word (release) only after all before it, any store after those to its own address.
    for position, (kind, index, _) in enumerate(state.pending):
        earlier = state.pending[:position]
        ordered = kind == "words" and broken != "word without release"
        if not (earlier and ordered) and not any(other[:2] == (kind, index) for other in earlier):
            yield after_commit(state, position)
    # The reader sees the expected word, loads the bytes, and publishes that it has done with them.
    if state.reader < MESSAGES and state.words[state.reader % LINES] == state.reader:
        yield state._replace(reader=state.reader + 1, loads=(*state.loads, state.reader))
    for message in state.loads:
        if state.places[message % places] != message:
            raise WrongBytesError(f"message {message} has the bytes of {state.places[message % places]}")
        yield state._replace(loads=tuple(other for other in state.loads if other != message))
    if state.published < state.reader and (not state.loads or broken == "consumed without release"):
        yield state._replace(published=state.reader, consumed=state.reader)


def explore(places, broken=None):
    """How many states there are; raises where a message has wrong bytes or nothing can move before all is received."""
    first = State(places=(-1,) * places)
    seen, stack = {first}, [first]
    while stack:
        state = stack.pop()
        following = list(successors(state, places, broken))
        assert following or state.consumed == MESSAGES, f"nothing moves any more in {state}"
        for new in following:
            if new not in seen:
                seen.add(new)
                stack.append(new)
    return len(seen)


@pytest.mark.parametrize("places", [1, 2])
def test_every_interleaving_delivers_every_message_and_ends(places):
    assert explore(places) > 5 * MESSAGES


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("broken", ["word without release", "consumed without release", "no look at consumed"])
def test_a_missing_order_is_found(places, broken):
    with pytest.raises((WrongBytesError, AssertionError)):
        explore(places, broken)
