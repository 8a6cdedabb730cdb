"""All-reduce: result = x₀ op x₁ op … op x_{p−1} elementwise, on every rank, for op in sum, prod, min, max.

Across ranks an algorithm is a schedule (pyhpc/kernels/schedules, one file each), played over MPI messages with the
native reduction of csrc/allreduce. All ranks get equal bits, because every schedule is proved to evaluate one
expression everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyhpc.comm import Channel, channel, mpi
from pyhpc.errors import InvalidArgument, PyhpcError
from pyhpc.kernels.allreduce_problem import OPS, AllreduceProblem
from pyhpc.kernels.allreduce_variants import algorithm_refusal, peers, variants
from pyhpc.kernels.arrays import HOST, NAMES, Operand, describe, fetch, host_view, same_home, store
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.kernel import Kernel
from pyhpc.kernels.schedules.play import play
from pyhpc.kernels.schedules.schedule import Algorithm, algorithms, cheapest

_MPI_BLOCK = 1 << 30  # elements of one MPI_Allreduce: its count is a 32-bit integer before MPI 4


def allreduce(
    x: Any, comm: Any = None, op: str = "sum", algorithm: str = "auto", out: Any = None, *, checked: bool = True
) -> Any:
    """Combine one array of every rank elementwise; every rank gets the result, with equal bits.

    Collective: all ranks of `comm` call it with the same number of elements, dtype, op and algorithm.

    Args:
        x: an array of any shape (NumPy, PyTorch, CuPy, Numba, DLPack, buffer protocol), of dtype float64, float32,
            float16, bfloat16 or any integer; elements are combined in C order. Strided input is copied into a
            contiguous work array first. Integers wrap; NaN propagates. Arrays in GPU memory are staged through the
            host by their own library (never tried on a GPU yet).
        comm: an mpi4py intracommunicator, default MPI_COMM_WORLD. Messages travel on a private duplicate of it.
        op: "sum", "prod", "min" or "max".
        algorithm: "auto", one of `pyhpc list` ("ring", "recursive_doubling"), or "mpi" for the library's own
            MPI_Allreduce (which knows neither bfloat16 nor float16, and promises no equal bits). "auto" takes the
            cheapest by a latency–bandwidth–reduction model (`schedules.schedule.Model`): recursive doubling for short
            vectors, ring for long ones.
        out: where the result goes: `x`'s shape, dtype and library, writable; `x` itself for in place. Other overlap is
            refused.
        checked: compare count, dtype, op and algorithm of all ranks first, so that a mismatch, or one rank's bad
            argument, is an error on every rank. It costs one MPI_Allreduce of 80 bytes, about as much as a short
            all-reduce itself. Without it a mismatch may hang or give wrong results.

    Returns:
        `out`, or a new array of `x`'s library.

    Raises:
        InvalidArgument: an argument that cannot be taken, or ranks that disagree; with `checked`, on every rank.
        Unsupported: no MPI here, or an array in GPU memory whose library offers no copy.

    Source of the algorithms: each schedule's file.
    """
    private = channel(comm)
    request: _Request | None = None
    refusal: PyhpcError | None = None
    try:
        request = _request(x, out, op, algorithm, private.ranks)
    except PyhpcError as error:
        refusal = error
    if checked and private.ranks > 1:
        _agree(private, request, refusal)
    if request is None:
        assert refusal is not None
        raise refusal
    if request.algorithm is None:
        _library(private, request.x, request.out, op)
    else:
        play(private, request.algorithm, request.x, request.out, op)
    if request.strided is not None:
        request.strided[...] = request.out.reshape(request.strided.shape)
    if request.on_gpu is not None:
        store(request.out.reshape(request.on_gpu.shape), request.on_gpu)
    return request.answer


class _Request(NamedTuple):
    """One rank's arguments, checked and flattened to what is played."""

    x: np.ndarray  # contiguous, one-dimensional
    out: np.ndarray  # likewise; x itself, or apart from it
    op: str
    algorithm: Algorithm | None  # None: MPI_Allreduce
    answer: Any
    strided: np.ndarray | None = None  # where `out` is copied to in the end
    on_gpu: Operand | None = None  # likewise, in GPU memory

    @property
    def signature(self) -> tuple[int, int, int, int]:
        """What all ranks must agree on, as numbers."""
        chosen = list(algorithms()).index(self.algorithm.name) if self.algorithm else -1
        return self.x.size, list(DTYPES).index(NAMES[self.x.dtype]), list(OPS).index(self.op), chosen

    def __str__(self) -> str:
        name = self.algorithm.name if self.algorithm else "mpi"
        return f"{self.x.size} elements of {NAMES[self.x.dtype]}, op {self.op}, algorithm {name}"


def _request(x: Any, out: Any, op: str, algorithm: str, ranks: int) -> _Request:
    """Check the arguments of this rank."""
    if op not in OPS:
        raise InvalidArgument(f"op is {op!r}; it must be one of {', '.join(OPS)}")
    operand = None if type(x) is np.ndarray else describe(x, "x")
    staged = operand is not None and operand.device != HOST
    source = _checked(fetch(operand)) if operand is not None and staged else _host(x, "x")
    chosen = _algorithm(algorithm, ranks, source.nbytes)
    refusal = algorithm_refusal(algorithm, NAMES[source.dtype])
    if refusal is not None:
        raise InvalidArgument(f"{refusal}; use algorithm='auto'")
    flat = np.ascontiguousarray(source).reshape(-1)
    if operand is not None and staged:
        answer = operand.library.empty(operand, operand.shape, operand.dtype) if out is None else out
        return _Request(flat, np.empty_like(flat), op, chosen, answer, on_gpu=_home(operand, answer))
    if out is None:
        like = describe(x, "x")
        answer = like.library.empty(like, source.shape, NAMES[source.dtype])
        return _Request(flat, _host(answer, "out").reshape(-1), op, chosen, answer)
    target = source if out is x else _host(out, "out")
    if not (out is x or type(x) is type(out) is np.ndarray):
        same_home({"x": describe(x, "x"), "out": describe(out, "out")})
    in_place = _check_out(source, target)
    if target.flags.c_contiguous:
        return _Request(flat, flat if in_place else target.reshape(-1), op, chosen, out)
    return _Request(flat, flat if in_place else np.empty_like(flat), op, chosen, out, target)


def _home(x: Operand, out: Any) -> Operand:
    """`out`, which is to take the result of an `x` in GPU memory."""
    home = same_home({"out": describe(out, "out"), "x": x})
    if (home.shape, home.dtype) != (x.shape, x.dtype):
        raise InvalidArgument(
            f"out has shape {home.shape} and dtype {home.dtype}; x has {x.shape} and {x.dtype}, and they must agree"
        )
    return home


def _host(array: Any, argument: str) -> np.ndarray:
    """`array` as a NumPy array of the same memory."""
    if type(array) is not np.ndarray:
        array = host_view(describe(array, argument))
    return _checked(array, argument)


def _checked(array: np.ndarray, argument: str = "x") -> np.ndarray:
    """`array`, whose dtype is one that is combined."""
    if array.dtype not in NAMES:
        names = ", ".join(DTYPES)
        raise InvalidArgument(
            f"{argument} has dtype {array.dtype.str}; it must be one of {names}, in native byte order"
        )
    return array


def _check_out(source: np.ndarray, target: np.ndarray) -> bool:
    """Refuse an `out` that cannot take the result; whether it is the memory of `source`."""
    if target.shape != source.shape or target.dtype != source.dtype:
        raise InvalidArgument(
            f"out has shape {target.shape} and dtype {NAMES[target.dtype]}; x has {source.shape} and "
            f"{NAMES[source.dtype]}, and they must agree"
        )
    if not target.flags.writeable:
        raise InvalidArgument("out is read-only")
    if 0 in target.strides and any(s == 0 and n > 1 for s, n in zip(target.strides, target.shape, strict=True)):
        raise InvalidArgument("out has several elements in one place (a stride of 0)")
    if target is source:
        return True
    if not np.may_share_memory(source, target):  # compares bounds only: quick
        return False
    if source.ctypes.data == target.ctypes.data and source.strides == target.strides:
        return True
    if np.shares_memory(source, target):
        raise InvalidArgument("out overlaps x in part; give x itself for in place, or separate memory")
    return False


def _algorithm(name: str, ranks: int, size_bytes: int) -> Algorithm | None:
    if name == "auto":
        return cheapest(ranks, size_bytes)
    if name == "mpi":
        return None
    if name not in algorithms():
        raise InvalidArgument(f"algorithm is {name!r}; it must be one of auto, {', '.join(algorithms())}, mpi")
    return algorithms()[name]


def _agree(private: Channel, request: _Request | None, refusal: PyhpcError | None) -> None:
    """Raise on every rank unless all ranks ask for the same."""
    header = np.zeros(10, np.int64)
    # The maximum of v and of −v shows whether all v are equal; the last pair is 0 unless a rank refuses.
    if request is not None:
        header[0:8:2] = request.signature
    header[8] = refusal is not None
    header[1::2] = -header[0::2]
    private.comm.Allreduce(mpi().IN_PLACE, header, mpi().MAX)
    if header[8] == 0 and (header[0::2] == -header[1::2]).all():
        return
    said: list[tuple[bool, str]] = private.comm.allgather((refusal is not None, str(refusal or request)))
    if refusal is not None:
        raise refusal
    refused = [f"rank {rank}: {sentence}" for rank, (is_refused, sentence) in enumerate(said) if is_refused]
    if refused:
        raise InvalidArgument(f"all-reduce was refused by {len(refused)} of {private.ranks} ranks; {refused[0]}")
    odd = next(rank for rank, (_, sentence) in enumerate(said) if sentence != said[0][1])
    raise InvalidArgument(f"the ranks disagree: rank 0 asks for {said[0][1]}; rank {odd} for {said[odd][1]}")


def _library(private: Channel, x: np.ndarray, out: np.ndarray, op: str) -> None:
    """MPI_Allreduce, in blocks whose count fits MPI 3."""
    operation = getattr(mpi(), op.upper())
    for low in range(0, x.size, _MPI_BLOCK):
        part = slice(low, low + _MPI_BLOCK)
        private.comm.Allreduce(mpi().IN_PLACE if out is x else x[part], out[part], operation)


KERNEL = Kernel(
    "allreduce",
    "result = x₀ op x₁ op … on every rank, op in sum, prod, min, max",
    AllreduceProblem,
    variants,
    peers,
    examples=(
        *(AllreduceProblem(1001, dtype, "sum", 3) for dtype in DTYPES),
        *(
            AllreduceProblem(77, dtype, op, 3)
            for dtype in ("float32", "bfloat16", "int8")
            for op in ("prod", "min", "max")
        ),
        *(AllreduceProblem(elements, "float32", "sum", ranks) for elements in (1, 65537) for ranks in (1, 2)),
        AllreduceProblem(70_000, "bfloat16", "sum", 4, "integers"),
        AllreduceProblem(33, "float64", "max", 2, "zeros"),
    ),
)
