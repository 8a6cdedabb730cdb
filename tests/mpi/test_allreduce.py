from __future__ import annotations

import contextlib
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from pyhpc import allreduce, comm
from pyhpc.errors import InvalidArgument, PyhpcError
from pyhpc.kernels.allreduce import KERNEL, AllreduceProblem
from pyhpc.kernels.allreduce_variants import algorithm_refusal
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.schedules.schedule import algorithms

MPI = comm.mpi()
OWN = list(algorithms())


def same_bits_everywhere(world, array):
    return len(set(world.allgather(array.tobytes()))) == 1


def check(world, problem, result):
    assert problem.elements == 0 or problem.verify_share(result).passed
    assert same_bits_everywhere(world, result)


KINDS = [(dtype, op) for dtype in DTYPES for op in ("sum", "prod", "min", "max")]
# One algorithm takes all of them: the others differ in who sends what to whom only.
FEW_KINDS = [("float32", "sum"), ("bfloat16", "prod"), ("int8", "max")]
CASES = [(name, *kind) for name in ("auto", "mpi") for kind in KINDS]
CASES += [(name, *kind) for name in OWN for kind in FEW_KINDS]


@pytest.mark.parametrize(("algorithm", "dtype", "op"), CASES)
def test_every_algorithm_reduces_every_dtype_and_op(world, algorithm, dtype, op):
    reason = algorithm_refusal(algorithm, dtype, op)
    if reason is not None:
        with pytest.raises(InvalidArgument, match=f"MPI_Allreduce (has no|saturates sums of) {dtype}"):
            allreduce(np.zeros(3, DTYPES[dtype]), op=op, algorithm=algorithm)
        return
    problem = AllreduceProblem(77, dtype, op, world.size)
    check(world, problem, allreduce(problem.contribution(world.rank), world, op, algorithm))


@pytest.mark.parametrize("elements", [0, 1, 2, 15, 16, 17, 255, 1023, 1024, 1025, 20_011])
@pytest.mark.parametrize("algorithm", OWN)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_in_place_and_out_of_place_give_the_same_bits(world, short_pieces, algorithm, elements, dtype):
    problem = AllreduceProblem(elements, dtype, "sum", world.size, seed=elements)
    x, out = problem.contribution(world.rank), problem.output()
    before = x.tobytes()
    assert allreduce(x, algorithm=algorithm, out=out) is out
    assert x.tobytes() == before
    check(world, problem, out)
    assert allreduce(x, algorithm=algorithm, out=x) is x
    assert x.tobytes() == out.tobytes()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("algorithm", OWN)
def test_a_vector_of_many_long_segments_is_reduced(world, algorithm, in_place):
    problem = AllreduceProblem(250_001, "float64", "sum", world.size)
    x = problem.contribution(world.rank)
    check(world, problem, allreduce(x, algorithm=algorithm, out=x if in_place else None))


VIEWS = {
    "transposed": lambda a: a.reshape(30, 40).T,
    "every_second": lambda a: a.reshape(30, 40)[::2, ::2],
    "backwards": lambda a: a[::-1],
    "three_dimensions": lambda a: a.reshape(10, 12, 10)[:, 3:9],
    "one_element": lambda a: a[:1].reshape(()),
}


@pytest.mark.parametrize("view", VIEWS)
def test_strided_inputs_and_outputs_keep_their_shape(world, view):
    rows = [VIEWS[view](np.arange(1200.0) * (rank + 1)) for rank in range(world.size)]
    memory = np.full(1200, -1.0)
    out = VIEWS[view](memory)
    assert allreduce(rows[world.rank], out=out) is out
    np.testing.assert_array_equal(out, sum(rows))
    assert np.count_nonzero(memory == -1) == 1200 - out.size
    result = allreduce(rows[world.rank])
    assert result.shape == rows[0].shape
    np.testing.assert_array_equal(result, sum(rows))
    inside = VIEWS[view](np.arange(1200.0) * (world.rank + 1))
    assert allreduce(inside, out=inside) is inside
    np.testing.assert_array_equal(inside, sum(rows))


@pytest.mark.parametrize("op", ["sum", "prod", "min", "max"])
@pytest.mark.parametrize("algorithm", ["ring", "recursive_doubling"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_nan_of_any_rank_reaches_every_rank_with_equal_bits(world, algorithm, op, dtype):
    x = np.ones(world.size * 20, DTYPES[dtype])
    x[world.rank * 20 + 3] = np.nan
    result = allreduce(x, op=op, algorithm=algorithm)
    assert np.isnan(result[3::20].astype(np.float64)).all()
    assert np.isnan(result.astype(np.float64)).sum() == world.size
    assert same_bits_everywhere(world, result)


def test_infinities_that_meet_with_both_signs_are_nan_on_every_rank(world):
    result = allreduce(np.array([np.inf, -np.inf if world.rank == 0 else np.inf], np.float32))
    assert result[0] == np.inf
    assert np.isnan(result[1]) if world.size > 1 else result[1] == -np.inf


def test_memory_that_offers_the_buffer_protocol_is_taken(world):
    import array

    x = array.array("d", [1.0, 2.0])
    allreduce(x, out=x)
    assert x.tolist() == [world.size, 2.0 * world.size]


BAD = {
    "op": (lambda: (np.ones(3), {"op": "xor"}), "op is 'xor'"),
    "algorithm": (lambda: (np.ones(3), {"algorithm": "pigeon"}), "must be one of auto, .*ring.*mpi"),
    "complex": (lambda: (np.ones(3, complex), {}), "dtype <c16"),
    "big_endian": (lambda: (np.ones(3, ">f4"), {}), "native byte order"),
    "list": (lambda: ([1.0], {}), "is a list, not an array"),
    "shape": (lambda: (np.ones(3), {"out": np.ones(4)}), "must agree"),
    "out_dtype": (lambda: (np.ones(3), {"out": np.ones(3, np.float32)}), "must agree"),
    "read_only": (lambda: (np.ones(3), {"out": np.broadcast_to(1.0, (3,))}), "read-only"),
    "overlap": (lambda: (np.ones(6)[:4], {}), "overlaps x in part"),
}


def bad_call(case):
    x, options = BAD[case][0]()
    if case == "overlap":
        options = {"out": x.base[1:5]}
    return x, options


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_of_one_rank_is_an_error_on_every_rank_and_the_next_call_works(world, case):
    odd, sentence = world.size - 1, BAD[case][1]
    x, options = bad_call(case) if world.rank == odd else (np.ones(3), {})
    expected = sentence if world.rank == odd else rf"refused by 1 of {world.size} ranks; rank {odd}: .*{sentence}"
    with pytest.raises(PyhpcError, match=expected):
        allreduce(x, **options, checked=True)
    assert allreduce(np.ones(1))[0] == world.size


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_of_all_ranks_leaves_nothing_behind(world, case):
    x, options = bad_call(case)
    with pytest.raises(PyhpcError, match=BAD[case][1]):
        allreduce(x, **options)
    assert allreduce(np.ones(1))[0] == world.size


MISMATCHES = {
    "count": (lambda odd: (np.ones(4 + odd), {}), "5 elements"),
    "dtype": (lambda odd: (np.ones(4, np.int64 if odd else np.float64), {}), "int64"),
    "op": (lambda odd: (np.ones(4), {"op": "max" if odd else "sum"}), "op max"),
    "algorithm": (lambda odd: (np.ones(4), {"algorithm": "ring" if odd else "recursive_doubling"}), "algorithm ring"),
}


@pytest.mark.any_world
@pytest.mark.parametrize("case", MISMATCHES)
def test_ranks_that_disagree_all_hear_who_asks_for_what(world, case):
    make, sentence = MISMATCHES[case]
    x, options = make(world.rank == world.size - 1)
    if world.size == 1:
        allreduce(x, **options)
        return
    with pytest.raises(InvalidArgument, match=rf"the ranks disagree: rank 0 .*; rank {world.size - 1} .*{sentence}"):
        allreduce(x, **options, checked=True)
    assert allreduce(np.ones(1))[0] == world.size


@pytest.mark.any_world
@pytest.mark.parametrize("case", MISMATCHES)
def test_ranks_that_disagree_unchecked_all_get_an_error_now_and_later_on_this_communicator(world, case):
    if world.size == 1:
        return
    spoilt = world.Dup()
    allreduce(np.ones(4), spoilt)
    world.Barrier()  # lest a rank that is already further spoils this call for one that is still in it
    x, options = MISMATCHES[case][0](world.rank == world.size - 1)
    for _ in range(2):
        with pytest.raises(PyhpcError, match="all-reduce"):
            allreduce(x, spoilt, **options)
    world.Barrier()
    spoilt.Free()
    assert allreduce(np.ones(1))[0] == world.size


def test_a_freed_communicator_and_an_intercommunicator_are_refused(world):
    freed = world.Dup()
    freed.Free()
    with pytest.raises(InvalidArgument, match="freed"):
        allreduce(np.ones(1), freed)
    with pytest.raises(InvalidArgument, match="give an mpi4py communicator"):
        allreduce(np.ones(1), "world")
    if world.size > 1:
        half = world.Split(world.rank % 2)
        between = half.Create_intercomm(0, world, 1 - world.rank % 2)
        with pytest.raises(InvalidArgument, match="intercommunicator"):
            allreduce(np.ones(1), between)
        between.Free()
        half.Free()


def test_sub_communicators_with_another_rank_order_work(world):
    reverse = world.Split(0, -world.rank)
    parity = world.Split(world.rank % 2)
    for part in (reverse, parity):
        members = part.allgather(world.rank)
        for algorithm in OWN:
            assert allreduce(np.array([float(world.rank)]), part, algorithm=algorithm)[0] == sum(members)
        part.Free()
    alone = MPI.COMM_SELF
    assert allreduce(np.array([7], np.int8), alone, "prod")[0] == 7


def test_the_callers_pending_receive_never_takes_a_message_of_the_all_reduce(world):
    mine = np.zeros(1, np.int64)
    request = world.Irecv(mine, MPI.ANY_SOURCE, MPI.ANY_TAG)
    assert allreduce(np.ones(9))[0] == world.size
    world.Send(np.array([42]), (world.rank + 1) % world.size, 5)
    request.Wait()
    assert mine[0] == 42


def test_checked_calls_give_the_same_bits(world):
    x = AllreduceProblem(1000, ranks=world.size).contribution(world.rank)
    assert allreduce(x, checked=True).tobytes() == allreduce(x).tobytes()


def test_integers_wrap_as_numpy_s_do(world):
    x = np.full(5, 200 + world.rank, np.uint8)
    expected = np.sum([np.full(5, 200 + rank, np.uint8) for rank in range(world.size)], axis=0, dtype=np.uint8)
    np.testing.assert_array_equal(allreduce(x), expected)


@pytest.mark.parametrize("name", [*OWN, "mpi"])
def test_as_a_kernel_s_variant_an_algorithm_takes_problems_of_this_many_ranks(world, name):
    variant = KERNEL.variant(name)
    assert variant.reject(AllreduceProblem(10, ranks=1)) == "one rank has nothing to exchange"
    assert f"needs {world.size + 1} MPI ranks" in variant.reject(AllreduceProblem(10, ranks=world.size + 1))
    if world.size > 1:
        problem = AllreduceProblem(1000, "float32", "sum", world.size)
        assert variant.reject(problem) is None
        for arrays in (variant.prepare(problem, {}), problem.inputs()):
            out = problem.output()
            variant.run(problem, arrays, out, 1)
            assert problem.verify(out, problem.inputs()).passed


def test_bfloat16_sums_are_rounded_after_every_addition_in_the_schedule_s_order(world):
    x = np.array([1.0 if world.rank == 0 else 2.0**-9], ml_dtypes.bfloat16)
    # Half a unit in the last place rounds to even each time: nothing is ever added to 1 by recursive doubling on 2
    # ranks.
    if world.size == 2:
        assert float(allreduce(x, algorithm="recursive_doubling")[0]) == 1.0
    assert same_bits_everywhere(world, allreduce(x))


def stand_in_for_cupy(monkeypatch):
    """A class whose instances look like CuPy arrays and keep their data in host memory, and their library."""

    def init(self, data):
        self.data, self.shape, self.dtype = data, data.shape, data.dtype
        self.device = contextlib.nullcontext()
        self.__cuda_array_interface__ = {"shape": data.shape, "typestr": "<f4", "data": (4096, False), "stream": None}

    def set_(self, host):
        self.data[...] = host

    members = {"__module__": "cupy", "__init__": init, "set": set_, "__dlpack_device__": lambda self: (2, 0)}
    array = type("ndarray", (), members)
    library = types.SimpleNamespace(
        asnumpy=lambda a: a.data.copy(), empty=lambda shape, dtype: array(np.full(shape, np.nan, dtype))
    )
    monkeypatch.setitem(sys.modules, "cupy", library)
    return array


def test_an_array_in_gpu_memory_is_staged_by_its_own_library(world, monkeypatch):
    array = stand_in_for_cupy(monkeypatch)
    mine = np.full((3, 5), world.Get_rank() + 1, np.float32)
    total = np.full((3, 5), sum(range(1, world.Get_size() + 1)), np.float32)
    x = array(mine.copy())
    result = allreduce(x)
    assert type(result) is array
    np.testing.assert_array_equal(result.data, total)
    np.testing.assert_array_equal(x.data, mine)
    assert allreduce(x, out=x) is x
    np.testing.assert_array_equal(x.data, total)
    with pytest.raises(InvalidArgument, match=r"out has shape \(3, 4\)"):
        allreduce(x, out=array(np.zeros((3, 4), np.float32)))
    with pytest.raises(InvalidArgument, match="give arrays of one library"):
        allreduce(x, out=np.zeros((3, 5), np.float32))
