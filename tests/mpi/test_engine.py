from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pyhpc import allreduce, comm
from pyhpc.errors import CommunicationError, InvalidArgument, Unsupported
from pyhpc.kernels.allreduce_plan import Request, chosen
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.schedules import engine as engines
from pyhpc.kernels.schedules.engine import Engine
from pyhpc.kernels.schedules.rule import Row, Rule
from pyhpc.kernels.schedules.schedule import Algorithm, Path, Reduce, Send, algorithms
from pyhpc.native import cpu

pytestmark = pytest.mark.any_world

RULES = {
    "lines": Rule((Row(0, "staging", 4096),), lines_bytes=3584),
    "staging": Rule((Row(0, "staging", 4096),), lines_bytes=0, network_bytes=10_000),
    "staging_in_strips": Rule((Row(0, "staging", 4096, 20_000, True, True),), network_bytes=10_000),
    "single_copy_in_strips": Rule((Row(0, "single_copy", 8192, 30_000),)),
}
FLOAT = np.dtype(np.float32)


@pytest.fixture
def channel(world):
    own = world.Dup()
    yield comm.channel(own)
    own.Free()


def inputs(ranks, elements, dtype=np.float32):
    return [np.random.default_rng(elements + rank).integers(-9, 9, elements).astype(dtype) for rank in range(ranks)]


def check(engine, algorithm, elements, arrays):
    rank, rows = engine.channel.rank, inputs(engine.channel.ranks, elements)
    plan = engine.plan(algorithm, elements, FLOAT, "sum", 77)
    x, out = arrays
    x[:], out[:] = rows[rank], -1
    assert plan(x, out) is out
    np.testing.assert_array_equal(out, sum(rows))
    np.testing.assert_array_equal(x, rows[rank])
    assert plan(x, x) is x
    np.testing.assert_array_equal(x, sum(rows))


@pytest.mark.parametrize(
    ("algorithm", "rule"),
    [*((name, "staging_in_strips") for name in algorithms()), *(("direct", rule) for rule in RULES), ("ring", "lines")],
)
def test_every_schedule_gives_the_sum_by_every_way(channel, algorithm, rule):
    engine = Engine(channel)
    engine.rule = RULES[rule]
    for elements in (0, 1, 15, 257, 20_011):
        check(engine, algorithms()[algorithm], elements, (np.empty(elements, FLOAT), np.empty(elements, FLOAT)))
    shared = (engine.allocate(20_011, FLOAT), engine.allocate((20_011,), "f4"))
    check(engine, algorithms()[algorithm], 20_011, shared)


@pytest.mark.parametrize(
    ("algorithm", "ranks_of_a_node"), [*((name, 1) for name in algorithms()), ("direct", 2), ("ring", 2)]
)
def test_ranks_of_different_nodes_exchange_messages(channel, monkeypatch, algorithm, ranks_of_a_node):
    monkeypatch.setattr(engines, "node", lambda c: c.Split(c.rank // ranks_of_a_node, c.rank))
    engine = Engine(channel)
    assert engine.local_ranks == [
        r for r in range(channel.ranks) if r // ranks_of_a_node == channel.rank // ranks_of_a_node
    ]
    engine.rule = RULES["staging"]
    for elements in (0, 1, 2049, 20_011):
        check(engine, algorithms()[algorithm], elements, (np.empty(elements, FLOAT), np.empty(elements, FLOAT)))


def test_auto_combines_inside_nodes_first_where_ranks_share_them(channel, monkeypatch):
    monkeypatch.setattr(engines, "node", lambda c: c.Split(c.rank // 2, c.rank))
    engine, ranks = Engine(channel), channel.ranks
    assert (engine.ranks_per_node, engine.one_node) == (min(ranks, 2), ranks <= 2)
    for name, elements in [("auto", 0), ("auto", 2), ("auto", 2049), ("auto", 70_011), ("hierarchical", 2049)]:
        algorithm = chosen(Request(elements, "float32", "sum", name, "fast"), engine)
        assert (algorithm.inside is not None) == (name != "auto" or (ranks > 2 and elements < 3000))
        check(engine, algorithm, elements, (np.empty(elements, FLOAT), np.empty(elements, FLOAT)))


@pytest.mark.parametrize("window", [True, False])
def test_ranks_that_cannot_open_each_others_files_use_mpi(channel, monkeypatch, window):
    monkeypatch.setattr(Engine, "_open_together", lambda self, size: None)
    if not window:
        monkeypatch.setattr(Engine, "_mpi_window", lambda self, size: None)
    engine = Engine(channel)
    assert len(engine.local_ranks) == (channel.ranks if window else 1)
    check(engine, algorithms()["ring"], 20_011, (np.empty(20_011, FLOAT), np.empty(20_011, FLOAT)))
    if len(engine.local_ranks) > 1:
        with pytest.raises(Unsupported, match="cannot open each other's memory"):
            engine.allocate(3, FLOAT)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("name", ["direct", "recursive_doubling"])
@pytest.mark.parametrize("shared", [lambda rank: True, lambda rank: rank == 0, lambda rank: rank > 0])
def test_arrays_that_all_ranks_share_are_combined_in_one_pass_with_the_same_bits(channel, shared, name, streaming):
    engine = Engine(channel)
    engine.rule = Rule((Row(0, "staging", 4096, 30_000, False, streaming),), windows_bytes=1024)
    for elements in (300 * channel.ranks, 20_011, 60_001):
        plan = engine.plan(algorithms()[name], elements, FLOAT, "sum", 77)
        rows = [np.random.default_rng(rank).random(elements, FLOAT) for rank in range(channel.ranks)]
        private, window = ([make(elements, FLOAT) for _ in range(2)] for make in (np.empty, engine.allocate))
        expected = plan(rows[channel.rank], np.empty(elements, FLOAT))
        x, out = window if shared(channel.rank) else private
        x[:], out[:] = rows[channel.rank], -1
        for target in (out, x):
            np.testing.assert_array_equal(plan(x, target), expected)
            for _ in range(2):  # the next call must not meet this one's
                np.testing.assert_array_equal(plan(rows[channel.rank], np.empty(elements, FLOAT)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_reduced_in_whole_elements(channel, dtype):
    kind = np.dtype(DTYPES[dtype])
    engine = Engine(channel)
    rows = inputs(channel.ranks, 1003, kind)
    plan = engine.plan(algorithms()["ring"], 1003, kind, "max", 1)
    np.testing.assert_array_equal(plan(rows[channel.rank], np.empty(1003, kind)), np.max(rows, axis=0))


def test_an_allocation_lives_as_long_as_its_views_and_others_can_still_send_from_theirs(channel):
    engine = Engine(channel)
    plan = engine.plan(algorithms()["ring"], 5000, FLOAT, "sum", 3)
    array = engine.allocate((2, 5000), FLOAT)
    assert not array.any()
    row = array[1]
    row[:] = channel.rank
    del array
    assert (row == channel.rank).all()
    out, expected = np.empty(5000, FLOAT), sum(range(channel.ranks))
    assert (plan(row, out) == expected).all()
    x = row if channel.rank == 0 else row.copy()
    del row
    assert (plan(x, out) == expected).all()
    del x
    again = engine.allocate(5000, FLOAT)
    again[:] = 1
    assert (plan(again, again) == channel.ranks).all()


BAD = {
    "not an array": (lambda: [1.0], "x is a list"),
    "dtype": (lambda: np.zeros(8), "another dtype"),
    "size": (lambda: np.zeros(7, FLOAT), "has 7 elements, the plan 8"),
    "strided": (lambda: np.zeros(16, FLOAT)[::2], "not C-contiguous"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_array_that_does_not_fit_the_plan_is_refused_before_anything_is_sent(channel, case):
    engine = Engine(channel)
    plan = engine.plan(algorithms()["ring"], 8, FLOAT, "sum", 3)
    make, sentence = BAD[case]
    with pytest.raises(InvalidArgument, match=sentence):
        plan(make(), np.empty(8, FLOAT))
    read_only = np.zeros(8, FLOAT)
    read_only.flags.writeable = False
    with pytest.raises(InvalidArgument, match="out is read-only"):
        plan(np.zeros(8, FLOAT), read_only)
    memory = np.zeros(12, FLOAT)
    with pytest.raises(InvalidArgument, match="overlap"):
        plan(memory[:8], memory[4:])
    with pytest.raises(TypeError, match=r"plan\(x, out\)"):
        plan(memory)
    np.testing.assert_array_equal(plan(np.ones(8, FLOAT), np.empty(8, FLOAT)), np.full(8, channel.ranks))


@pytest.mark.parametrize("nodes", [False, True])
def test_ranks_that_disagree_all_get_an_error_now_and_later(channel, world, monkeypatch, nodes):
    if channel.ranks == 1:
        return
    if nodes:
        monkeypatch.setattr(engines, "node", lambda c: c.Split(c.rank, c.rank))
    engine = Engine(channel, timeout_seconds=20)
    odd = channel.rank == channel.ranks - 1
    plan = engine.plan(algorithms()["ring"], 5000 + 300 * odd, FLOAT, "sum", 3 + odd)
    x = np.ones(5000 + 300 * odd, FLOAT)
    with pytest.raises((InvalidArgument, CommunicationError), match=r"rank \d+ and rank \d+ disagree") as first:
        plan(x, x.copy())
    with pytest.raises((InvalidArgument, CommunicationError)) as second:
        plan(x, x.copy())
    assert str(first.value) == str(second.value)
    world.Barrier()


@pytest.mark.parametrize("name", ["recursive_doubling", "double_binary_tree", "ring"])
def test_a_rank_that_never_calls_is_named_by_those_who_wait_for_others_that_wait_for_it(channel, world, name):
    if channel.ranks == 1:
        return
    engine = Engine(channel, timeout_seconds=0.5)
    plan = engine.plan(algorithms()[name], 1, FLOAT, "sum", 3)
    if channel.rank > 0:
        with pytest.raises(CommunicationError, match=r"no answer for \d+ s: rank 0 \(process \d+\) has not called"):
            plan(np.ones(1, FLOAT), np.empty(1, FLOAT))
    world.Barrier()
    with pytest.raises(CommunicationError, match=r"rank 0 .* has not called"):
        plan(np.ones(1, FLOAT), np.empty(1, FLOAT))


def test_a_rank_whose_process_has_ended_is_named_at_once(channel, world, monkeypatch):
    if channel.ranks == 1:
        return
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    if channel.rank == 1:
        monkeypatch.setattr(engines.os, "getpid", lambda: ended.pid)
    engine = Engine(channel, timeout_seconds=0.05)  # its death is the cause, however late it is seen
    monkeypatch.undo()
    plan = engine.plan(algorithms()["recursive_doubling"], 1, FLOAT, "sum", 3)
    if channel.rank == 0:
        with pytest.raises(
            CommunicationError, match=r"^all-reduce: rank 1 \(process \d+\) has ended; rank 0 waits for rank 1"
        ):
            plan(np.ones(1, FLOAT), np.empty(1, FLOAT))
    world.Barrier()


def towards_rank_1(rank, ranks):
    """Rank 1 takes the vectors of rank 0 and then of rank 2; nobody else waits."""
    for peer in (0, 2):
        yield {peer: (Send(1, (0, 1), "input"),), 1: (Reduce(peer, (0, 1), "result" if peer else "input", True),)}.get(
            rank, ()
        )


@pytest.mark.parametrize("nodes", [False, True])
def test_a_later_calls_failure_does_not_end_the_call_that_a_slower_rank_is_still_in(channel, world, monkeypatch, nodes):
    if channel.ranks < 3:
        return
    if nodes:
        monkeypatch.setattr(engines, "node", lambda c: c.Split(c.rank, c.rank))
    engine = Engine(channel, timeout_seconds=0.2 if channel.rank == 0 else 20)
    name, nobody = "towards_rank_1", Path(0, 0, 0)
    algorithm = Algorithm(name, "", lambda _: 1, towards_rank_1, lambda _: nobody, lambda _: 2, lambda _: 2)
    once = engine.plan(algorithm, 1, FLOAT, "sum", 3)
    again = engine.plan(algorithms()["recursive_doubling"], 1, FLOAT, "sum", 3)
    x, out = np.full(1, 1 + channel.rank, FLOAT), np.empty(1, FLOAT)
    if channel.rank == 2:
        world.recv(source=0)  # rank 0 has given up its second call; rank 1 waits in the first one
    once(x, out)
    assert channel.rank != 1 or out == 1 + 2 + 3
    with pytest.raises(CommunicationError, match=r"no answer .* rank 0 waits for"):
        again(again(x, out), out)  # what rank 0 sent before it gave up may complete one for the others, but no two
    if channel.rank == 0:
        world.send(None, 2)
    world.Barrier()


def test_a_strip_that_is_shorter_than_an_action_is_refused(channel):
    native = cpu().allreduce
    choice = {"single_copy": False, "piece_bytes": 64, "streaming_slots": False, "streaming_results": False}
    for step, strips, fits in ((64, 1, False), (64, 2, True), (128, 1, True), (64, 0, False)):
        chosen = native.Choice(lines_bytes=0, step_bytes=step, strips=strips, network_bytes=64, **choice)
        words = ([[(0, 0, 0, 128, True, False, 0)]], [], chosen, FLOAT, "float32", "sum", 128, 1)
        if fits:
            native.plan(native.Engine(0, 1), *words)
            continue
        with pytest.raises(InvalidArgument, match="longer than its"):
            native.plan(native.Engine(0, 1), *words)


def test_a_freed_communicator_takes_what_its_engine_has_of_mpi_with_it(world, monkeypatch):
    freed = []
    usual = Engine.close
    monkeypatch.setattr(Engine, "close", lambda self: (usual(self), freed.append(self._node)))
    files, turns = [], 1000 if world.size == 1 else 40
    for _ in range(turns):
        own = world.Dup()
        allreduce(np.ones(1, FLOAT), own)
        own.Free()
        files.append(len(os.listdir("/proc/self/fd")))
    assert freed == [None] * turns
    assert files[-1] == files[20]


def test_ctrl_c_ends_a_wait_and_the_others_are_told(channel, world):
    if channel.ranks == 1:
        return
    engine = Engine(channel, timeout_seconds=30)
    plan = engine.plan(algorithms()["ring"], 1, FLOAT, "sum", 3)
    last = channel.ranks - 1
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if channel.rank == 0:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                plan(np.ones(1, FLOAT), np.empty(1, FLOAT))
        elif channel.rank < last:
            with pytest.raises(CommunicationError, match="rank 0 was interrupted"):
                plan(np.ones(1, FLOAT), np.empty(1, FLOAT))
        world.Barrier()
    finally:
        signal.signal(signal.SIGINT, previous)
    with pytest.raises(CommunicationError, match="rank 0 was interrupted"):
        plan(np.ones(1, FLOAT), np.empty(1, FLOAT))


def test_two_threads_cannot_use_one_engine_at_once(channel, world):
    if channel.ranks == 1:
        return
    engine = Engine(channel, timeout_seconds=30)
    plan = engine.plan(algorithms()["recursive_doubling"], 100_000, FLOAT, "sum", 3)
    x, done = np.ones(100_000, FLOAT), []
    if channel.rank == 0:
        first = threading.Thread(target=lambda: done.append(plan(x, np.empty_like(x))))
        first.start()
        time.sleep(0.2)
        with pytest.raises(InvalidArgument, match="at work in another thread"):
            plan(x, np.empty_like(x))
        world.Barrier()
        first.join()
    else:
        world.Barrier()
        done.append(plan(x, np.empty_like(x)))
    assert (done[0] == channel.ranks).all()


def test_the_line_latency_is_one_number_for_all_ranks(channel, world):
    engine = Engine(channel)
    assert set(world.allgather(engine.line_latency_seconds)) == {engine.line_latency_seconds}
    assert (engine.line_latency_seconds > 0) == (channel.ranks > 1)


def test_shared_files_have_no_name(channel):
    before = set(os.listdir("/dev/shm"))
    engine = Engine(channel)
    kept = engine.allocate(100, FLOAT)
    assert kept.size == 100
    assert not any("pyhpc" in name for name in set(os.listdir("/dev/shm")) - before)
    with pytest.raises(Unsupported, match="opening /proc"):
        cpu().allreduce.SharedMemory.open(os.getpid(), 9999, 100)
