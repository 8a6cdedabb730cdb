"""Execution of schedules: the C++ engine of csrc/allreduce, joined to a communicator.

Ranks of one node share a segment of memory; ranks of different nodes exchange MPI messages, for which the engine calls
the MPI library that mpi4py has loaded, by address. The segment is an anonymous file that one rank makes and the others
open through /proc, so that nothing is left behind however a rank ends. Where the ranks cannot see each other's
processes (containers of one node with process numbers of their own), MPI's shared window takes its place, and where
that does not work either, each rank counts as a node of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import secrets
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from pyhpc.comm import Channel, mpi, node
from pyhpc.errors import InvalidArgument, PyhpcError, Unsupported
from pyhpc.kernels.arrays import NAMES
from pyhpc.kernels.schedules.cheapest import ranks_per_node
from pyhpc.kernels.schedules.rule import LINE_BYTES, SLOT_BYTES, SLOTS, Rule, Table, table
from pyhpc.kernels.schedules.schedule import Algorithm, Reduce, Round, Send, algorithms, bounds
from pyhpc.native import cpu

TIMEOUT_VARIABLE = "PYHPC_ALLREDUCE_TIMEOUT"
_FUNCTIONS = ("MPI_Isend", "MPI_Irecv", "MPI_Recv", "MPI_Test", "MPI_Iprobe", "MPI_Get_count")
_PAGE = 2 << 20  # each rank's share of an allocation begins at one
_BURSTS, _BOUNCES = 20, 50  # of the line between two cores; where ranks share cores it is the scheduler that is timed

Plan = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Engine:
    """Plays schedules among the ranks of a channel. Collective to make.

    Attributes:
        local_ranks: the ranks that share memory with this one, itself included.
        one_node: whether these are all ranks.
        ranks_per_node: the largest n for which ranks k·n … k·n + n − 1 share memory for every k.
        line_latency_seconds: how long a cache line takes from one core of a node to another's, the slowest node's;
            0 where no node has two ranks.
        crowded: whether a node has more ranks than cores that they may run on.
        table: what `rule` is from, and what "auto" plays.
        rule: how vectors travel inside a node. Assign another one, equal on all ranks, before planning.

    Raises:
        InvalidArgument: the file that PYHPC_ALLREDUCE_RULE names is no table, on every rank.
    """

    def __init__(self, channel: Channel, timeout_seconds: float | None = None) -> None:
        self.channel = channel
        limit = os.environ.get(TIMEOUT_VARIABLE, "300") if timeout_seconds is None else timeout_seconds
        self._timeout_seconds = float(limit)
        self.table: Table = _first_ranks_table(channel)
        self._native = self._new_native()
        channel.comm.Set_errhandler(mpi().ERRORS_RETURN)
        channel.users.add(self)
        self._window: Any = None  # of MPI, where it holds the segment
        self._node: Any = node(channel.comm)
        self._allocations = 0
        self.local_ranks: list[int] = self._node.allgather(channel.rank)
        self._processes = [0] * len(self.local_ranks)
        single_copy = self._share()
        self._connect()
        crowded = self._crowded()
        self._native.spin = 64 if crowded else 4000
        latency = self._ping_pong(4 if crowded else _BOUNCES)
        everywhere = channel.comm.allgather((latency, single_copy, self.local_ranks[0], crowded))
        latencies, single_copies, nodes, crowds = zip(*everywhere, strict=True)
        self.line_latency_seconds: float = max(latencies)
        self.one_node: bool = len(set(nodes)) == 1
        self.ranks_per_node: int = ranks_per_node(nodes)
        self.crowded: bool = any(crowds)
        # Ranks that take turns on a core find each other's lines in its cache, however long it took.
        self.rule: Rule = self.table.rule(0.0 if self.crowded else self.line_latency_seconds, all(single_copies))

    def plan(self, algorithm: Algorithm, elements: int, dtype: np.dtype, op: str, signature: int) -> Plan:
        """This rank's part of an all-reduce, ready to be called with (x, out) again and again. Local.

        Args:
            algorithm: whose schedule is played.
            elements: of the vector; 0 or more.
            dtype: one of the library's.
            op: "sum", "prod", "min" or "max".
            signature: 32 bits that tell this all-reduce from others: ranks whose signatures differ get an error.

        Raises (the plan, when called):
            InvalidArgument: arrays that do not fit the plan (before anything is sent), or ranks that disagree.
            CommunicationError: a rank that died, was interrupted, or did not answer within the time limit. After it,
                and after a disagreement, every call on this engine raises the same.
        """
        chunks, size = algorithm.chunks(self.channel.ranks), elements * dtype.itemsize
        choice = self.rule.choose(size, chunks, strips=self.one_node)
        line = max(1, LINE_BYTES // dtype.itemsize)
        edges = [edge * dtype.itemsize for edge in bounds(elements, chunks, line)]
        rounds = algorithm.rounds(self.channel.rank, self.channel.ranks) if self.channel.ranks > 1 else ()
        native = [_flat(actions, edges, choice.strips > 1) for actions in rounds]
        shortest = min(choice.step_bytes, *(high - low for low, high in itertools.pairwise(edges)))
        windows: list[_Flat] = []
        if size >= self.rule.windows_bytes and shortest > choice.lines_bytes and self._is_one_pass(algorithm):
            slices = [edge * dtype.itemsize for edge in bounds(elements, self.channel.ranks, line)]
            first = algorithms()["direct"].rounds(self.channel.rank, self.channel.ranks)[0]
            windows = _flat(tuple(action for action in first if isinstance(action, Reduce)), slices, False)
        plan: Plan = cpu().allreduce.plan(
            self._native, native, windows, choice, dtype, NAMES[dtype], op, size, signature
        )
        return plan

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array that the ranks of this node read and write in place. Collective; shapes may differ.

        It is zero at first. Its memory goes back to the system with its last view.

        Raises:
            Unsupported: the ranks of this node cannot open each other's memory.
        """
        kind = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape) * kind.itemsize
        sizes = self._node.allgather(size)
        offsets = [_PAGE]
        for share in sizes:
            offsets.append(offsets[-1] + math.ceil(share / _PAGE) * _PAGE)
        memory = self._open_together(offsets[-1])
        if memory is None:
            raise Unsupported("the ranks of this node cannot open each other's memory, so none can be shared")
        self._allocations += 1
        index = self._node.Get_rank()
        flat = self._native.allocate(memory, self._allocations, index, len(sizes), offsets[index], size)
        array: np.ndarray = flat.view(kind).reshape(shape)
        return array

    def _is_one_pass(self, algorithm: Algorithm) -> bool:
        """Whether arrays that all ranks share may be combined in one pass instead of by this schedule.

        All ranks must send to all others first, lest one waits for a line of one that waits for its message.
        """
        if not self.one_node or self.channel.ranks == 1:
            return False
        if self.channel.ranks > 2:
            return algorithm.name == "direct"
        return all(isinstance(algorithm.rounds(rank, 2)[0][0], Send) for rank in range(2))

    def close(self) -> None:
        """Free what MPI gave for it; the channel does so before its communicator is freed. Collective.

        Its plans must not be called any more; what was allocated stays.
        """
        self.channel.messages_left |= self._native.failed
        window, self._window = self._window, None
        if window is not None:
            window.Free()
        if self._node is not None:
            self._node.Free()
        self._node = None

    def _new_native(self) -> Any:
        native = cpu().allreduce.Engine(self.channel.rank, self.channel.ranks)
        native.timeout_seconds = self._timeout_seconds
        return native

    def _share(self) -> bool:
        """Make or open the node's segment. Whether the ranks can also read each other's private memory."""
        members, index = len(self.local_ranks), self._node.Get_rank()
        if members == 1:
            return True
        layout = cpu().allreduce.SegmentLayout(members, SLOT_BYTES, SLOTS)
        memory = self._open_together(layout.bytes)
        if memory is None:
            memory = self._mpi_window(layout.bytes)
        else:
            self._processes = self._node.allgather(os.getpid())
        token = secrets.randbits(63)
        tokens = self._node.allgather(token)
        if memory is not None:
            self._native.join(memory, layout, self.local_ranks, self._processes, token)
        self._node.Barrier()
        if memory is not None and self._all(self._native.sees(tokens)):
            return self._all(self._native.pulls(self._processes, tokens))
        # Each rank is a node of its own then.
        self._native = self._new_native()
        alone = self._node.Split(index)
        self.close()
        self._node, self.local_ranks, self._processes = alone, [self.channel.rank], [0]
        return False

    def _open_together(self, size: int) -> Any:
        """An anonymous file that all ranks of the node map, or None where one of them cannot."""
        memory, place = None, None
        if self._node.Get_rank() == 0:
            with contextlib.suppress(PyhpcError):
                memory = cpu().allreduce.SharedMemory.create(size)
                place = (os.getpid(), memory.file)
        place = self._node.bcast(place)
        if self._node.Get_rank() > 0 and place is not None:
            with contextlib.suppress(PyhpcError):
                memory = cpu().allreduce.SharedMemory.open(*place, size)
        if not self._all(memory is not None) or memory is None:
            return None
        memory.close_file()
        return memory

    def _mpi_window(self, size: int) -> Any:
        """MPI's shared memory."""
        self._window = mpi().Win.Allocate_shared(size if self._node.Get_rank() == 0 else 0, 1, comm=self._node)
        memory, _ = self._window.Shared_query(0)
        ctypes.memset(memory.address, 0, size) if self._node.Get_rank() == 0 else None
        self._node.Barrier()
        return cpu().allreduce.SharedMemory.at(memory.address, size)

    def _all(self, mine: bool) -> bool:
        return all(self._node.allgather(mine))

    def _connect(self) -> None:
        """Tell the engine where MPI's functions are; see csrc/allreduce/network.h for what is passed."""
        module = mpi()
        library = ctypes.CDLL(module.__file__)  # loaded already; its symbols include those of the MPI it is linked to
        functions = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _FUNCTIONS}
        comm, byte = module._handleof(self.channel.comm), module._handleof(module.BYTE)
        self._native.connect(functions, comm, byte, module.ANY_SOURCE)

    def _crowded(self) -> bool:
        """Whether the node has more ranks than cores that they may run on."""
        allowed = self._node.allgather(os.sched_getaffinity(0))
        return len(set().union(*allowed)) < len(allowed)

    def _ping_pong(self, bounces: int) -> float:
        """One way of a cache line between the first and the last rank of the node.

        The first quartile of short bursts: a burst in which another process had the core is no measurement.
        """
        index, last = self._node.Get_rank(), len(self.local_ranks) - 1
        if last == 0:
            return 0.0
        seconds = []
        for burst in range(_BURSTS) if index in (0, last) else ():
            begin = time.perf_counter()
            self._native.bounce(index == 0, burst * bounces, bounces)
            seconds.append((time.perf_counter() - begin) / (2 * bounces))
        return statistics.quantiles(seconds)[0] if seconds else 0.0


def _first_ranks_table(channel: Channel) -> Table:
    """The rule's table as the first rank has it: all ranks must choose alike."""
    found: tuple[Table | None, str] = (None, "")
    if channel.rank == 0:
        try:
            found = (table(), "")
        except InvalidArgument as error:
            found = (None, str(error))
    read, refusal = channel.comm.bcast(found)
    if read is None:
        raise InvalidArgument(refusal)
    return cast(Table, read)


_Flat = tuple[int, int, int, int, bool, bool, int]  # kind, peer, low, high, own is input, own is left, gather
_SEND, _REDUCE, _COPY = range(3)
_ALONE, _OPENS, _CONTINUES, _CLOSES = range(4)


def _flat(actions: Round, edges: list[int], by_chunk: bool) -> list[_Flat]:
    """A round as numbers, in bytes; `by_chunk`: one message a chunk, because a piece of each is played at a time."""
    flat: list[_Flat] = []
    for action in actions:
        first, last = action.chunks
        for low, high in [(chunk, chunk + 1) for chunk in range(first, last)] if by_chunk else [(first, last)]:
            begin, end = edges[low], edges[high]
            if isinstance(action, Send):
                flat.append((_SEND, action.peer, begin, end, action.source == "input", False, _ALONE))
            elif isinstance(action, Reduce):
                for number, peer in enumerate(action.before):
                    flat.append((_REDUCE, peer, begin, end, False, False, _CONTINUES if number else _OPENS))
                gather = _CLOSES if action.before else _ALONE
                flat.append((_REDUCE, action.peer, begin, end, action.own == "input", action.own_is_left, gather))
            else:
                flat.append((_COPY, action.peer, begin, end, False, False, _ALONE))
    return flat
