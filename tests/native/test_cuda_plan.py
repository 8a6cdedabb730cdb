"""How the sm90 matmul is planned (csrc/matmul/sm90_plan.h), ordered (sm90_tiles.h) and laid out (core/cuda_wgmma.h)."""

from __future__ import annotations

import ctypes
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


class Order(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("rows", "columns", "batches", "cluster_rows", "band"))


class Place(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("row", "column", "batch"))


class Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in "mnk"),
        ("batches", ctypes.c_int64),
        ("bytes", ctypes.c_int),
        ("out_bytes", ctypes.c_int),
        ("scaled_along_k", ctypes.c_bool),
        ("by_box", ctypes.c_bool * 2),
        ("multiprocessors", ctypes.c_int),
    )


class Plan(ctypes.Structure):
    _fields_ = (
        ("exchanged", ctypes.c_bool),
        *((name, ctypes.c_int) for name in ("rows", "columns", "cluster_rows", "split", "band")),
        ("by_box", ctypes.c_bool),
        ("clocks", ctypes.c_double),
    )


@pytest.fixture(scope="module")
def library(compiled):
    loaded = compiled("cuda_plan")
    loaded.steps.restype = loaded.slots.restype = ctypes.c_int64
    loaded.descriptor.restype = loaded.next_k.restype = ctypes.c_uint64
    return loaded


def shape_of(m, n, k, batches=1, bytes=2, along_k=False, by_box=(True, False), multiprocessors=132):
    return Shape(m, n, k, batches, bytes, 2, along_k, by_box, multiprocessors)


def best(library, *sizes, **rest):
    plan = Plan()
    library.best(ctypes.byref(shape_of(*sizes, **rest)), ctypes.byref(plan))
    return plan


# ---- the order of tiles ----


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_tile_is_computed_once_whatever_the_grid(library, data):
    small = st.integers(1, 12)
    rows, columns, batches, band, clusters = (data.draw(small) for _ in range(5))
    cluster_rows = data.draw(st.sampled_from([1, 2]))
    order = Order(rows, columns, batches, cluster_rows, band)
    count = library.steps(ctypes.byref(order))
    found = Counter()
    for first in range(clusters):  # the persistent grid
        for step in range(first, count, clusters):
            place = Place()
            library.place_of(ctypes.byref(order), step, ctypes.byref(place))
            for rank in range(cluster_rows):
                found[place.row + rank, place.column, place.batch] += 1
    padded = -(-rows // cluster_rows) * cluster_rows  # a cluster's second tile may lie outside
    assert found == Counter((r, c, z) for r in range(padded) for c in range(columns) for z in range(batches))


def test_the_tiles_of_one_wave_cover_a_compact_rectangle(library):
    order, places = Order(64, 32, 1, 2, 8), set()
    for step in range(66):
        place = Place()
        library.place_of(ctypes.byref(order), step, ctypes.byref(place))
        places.add((place.row, place.column))
    assert len({row for row, _ in places}) == 8
    assert len({column for _, column in places}) == 9


# ---- the plan ----


def test_large_products_use_the_largest_tile_and_share_an_operand(library):
    for size in (4096, 8192):
        plan = best(library, size, size, size)
        assert (plan.columns, plan.cluster_rows, plan.split) == (256, 2, 1)
        assert plan.by_box


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_same_tile_serves_elements_of_every_size_and_a_product_takes_time_by_their_bytes(library, size):
    plan, of_16_bits = best(library, 8192, 8192, 8192, bytes=size), best(library, 8192, 8192, 8192)
    assert (plan.rows, plan.columns, plan.cluster_rows, plan.split) == (128, 256, 2, 1)
    assert plan.clocks / of_16_bits.clocks == pytest.approx(size / 2, rel=0.05)


def test_scales_along_k_take_tiles_of_128_columns_that_are_never_exchanged(library):
    large = best(library, 4096, 7168, 16384, bytes=1, along_k=True)
    assert (large.rows, large.columns, large.exchanged) == (256, 128, False)
    few = best(library, 64, 7168, 2048, bytes=1, along_k=True)
    assert (few.rows, few.columns, few.exchanged) == (128, 128, False)
    assert few.split > 1


def test_few_tiles_are_split_along_k_and_never_more_than_run_at_once(library):
    for m in (1, 16, 64):
        plan = best(library, m, 4096, 4096)
        assert plan.exchanged, "the short side belongs where a tile can be narrow"
        assert plan.split > 1
        assert 4096 // 128 * plan.split <= library.slots(ctypes.byref(shape_of(m, 4096, 4096)), plan.split)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_plan_exists_for_every_shape_and_chip(library, data):
    m, n, k = (data.draw(st.integers(1, 20000)) for _ in range(3))
    sizes = {"batches": data.draw(st.integers(1, 70)), "multiprocessors": data.draw(st.integers(8, 148))}
    plan = best(library, m, n, k, **sizes)
    assert plan.columns in (64, 128, 256)
    assert plan.clocks > 0
    rows, columns = (n, m) if plan.exchanged else (m, n)
    tiles = -(-rows // 128) * -(-columns // plan.columns) * sizes["batches"]
    if plan.split > 1:
        assert plan.split <= -(-k // 64)
        assert tiles * plan.split <= sizes["multiprocessors"]


def test_no_plan_is_predicted_faster_than_the_chip(library):
    for m, n, k in [(8192, 8192, 8192), (1, 8192, 8192), (8192, 8192, 64), (128, 128, 65536)]:
        clocks = best(library, m, n, k).clocks
        assert clocks >= m * n * k / (2048 * 132)
        assert clocks >= 2 * (m * k + k * n + m * n) / 2870


def test_the_model_prints_every_candidate_and_marks_the_chosen_one(library):
    shape, text = shape_of(512, 4096, 4096), ctypes.create_string_buffer(8192)
    assert library.explain(ctypes.byref(shape), text, len(text)) < len(text)
    header, *lines = text.value.decode().splitlines()
    assert header.split() == ["tile", "a,b", "cluster", "split", "band", "store", "us"]
    marked = [line for line in lines if line.startswith("*")]
    times = [float(line.split()[-1]) for line in lines]
    assert len(lines) >= 12
    assert len(marked) == 1
    assert float(marked[0].split()[-1]) == min(times)
    assert library.explain(ctypes.byref(shape), None, 0) == len(text.value)


def test_a_candidate_can_be_named_and_a_name_that_is_none_is_told(library):
    shape, plan = shape_of(16, 4096, 4096), Plan()
    for name, found in [("64,1,4,1", (64, 1, 4, True)), ("96,1,1,0", (0, 0, 0, False)), ("fast", (0, 0, 0, False))]:
        library.chosen(ctypes.byref(shape), name.encode(), ctypes.byref(plan))
        assert (plan.columns, plan.cluster_rows, plan.split, plan.exchanged) == found
    library.chosen(ctypes.byref(shape), None, ctypes.byref(plan))
    assert plan.clocks == best(library, 16, 4096, 4096).clocks


# ---- shared memory: PTX ISA, "Matrix descriptor", "Shared memory matrix layout", "Register fragments" ----


def test_the_swizzle_is_a_permutation_that_spreads_a_column_of_chunks_over_all_banks(library):
    for atom in range(0, 4096, 1024):
        assert sorted(library.swizzled(x) for x in range(atom, atom + 1024)) == list(range(atom, atom + 1024))
    for chunk in range(8):
        banks = [library.swizzled(line * 128 + chunk * 16) % 128 // 4 for line in range(8)]
        assert sorted(bank + i for bank in banks for i in range(4)) == list(range(32))


@pytest.mark.parametrize("along_mn", [False, True])
def test_a_descriptor_has_the_fields_of_the_manual(library, along_mn):
    address = 3 * 49152 + 16384
    bits = library.descriptor(address, along_mn)
    assert bits & 0x3FFF == address >> 4
    assert bits >> 16 & 0x3FFF == (8192 >> 4 if along_mn else 1)
    assert bits >> 32 & 0x3FFF == 1024 >> 4
    assert bits >> 49 & 7 == 0
    assert bits >> 62 == 1
    assert library.next_k(along_mn) << 4 == (2048 if along_mn else 32)


@pytest.mark.parametrize("columns", [64, 128, 256])
def test_the_registers_of_a_warpgroup_hold_every_element_of_d_once(library, columns):
    found = [(library.d_row(t, i), library.d_column(t, i)) for t in range(128) for i in range(columns // 2)]
    assert sorted(found) == [(row, column) for row in range(64) for column in range(columns)]
    assert found[5 * columns // 2 : 5 * columns // 2 + 4] == [(1, 2), (1, 3), (9, 2), (9, 3)]  # thread 5
