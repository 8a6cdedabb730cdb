from __future__ import annotations

import time

import numpy as np

from pyhpc import comm


def test_the_launcher_tells_the_rank_before_mpi_is_asked(world):
    started = comm.launch()
    assert (started.rank, started.ranks) == (world.rank, world.size)


def test_the_local_ranks_of_each_host_are_numbered_without_gap(world):
    place = comm.place()
    assert (place.rank, place.ranks) == (world.rank, world.size)
    here = sorted(local for host, local in world.allgather((place.host, place.local_rank)) if host == place.host)
    assert here == list(range(place.local_ranks))
    assert comm.local_rank(world) == place.local_rank


def test_split_gives_the_members_a_communicator_and_the_others_none(world):
    part = comm.split(world, member=world.rank != 0)
    if world.rank == 0:
        assert part is None
    else:
        assert (part.rank, part.size) == (world.rank - 1, world.size - 1)
        part.Free()


def test_nobody_leaves_the_barrier_before_everybody_has_entered(world):
    channel = comm.channel()
    for late in range(world.size):
        if world.rank == late:
            time.sleep(0.02)
        entered = time.monotonic()
        channel.synchronise()
        left = time.monotonic()
        assert max(world.allgather(entered)) <= min(world.allgather(left))


def test_the_scratch_is_aligned_to_cache_lines_and_kept(world):
    channel = comm.channel()
    scratch = channel.scratch(1000)
    assert scratch.ctypes.data % 64 == 0
    assert scratch.nbytes >= 1000
    assert channel.scratch(10) is scratch
    assert scratch.dtype == np.uint8
