from __future__ import annotations

import numpy as np
import pytest

from pyhpc import allreduce, comm
from pyhpc.errors import InvalidArgument
from pyhpc.kernels import allreduce_plan
from pyhpc.kernels.schedules.engine import Engine
from pyhpc.kernels.schedules.rule import FILE_VARIABLE, Table, shipped
from pyhpc.tuning.allreduce_rule import Search, tune_allreduce


@pytest.fixture
def own(world):
    made = world.Dup()
    yield made
    made.Free()


def test_what_was_found_is_in_effect_once_the_environment_names_the_file(world, own, tmp_path, monkeypatch):
    place = world.bcast(str(tmp_path))
    if world.size == 1:
        with pytest.raises(InvalidArgument, match="two or more ranks of one node; here 1 run on one"):
            tune_allreduce(tmp_path / "rule.json", 8 << 10, 1)
        return
    # Where other processes have the cores now and then, the same cores may seem near once and far the next time.
    monkeypatch.setattr(Engine, "_ping_pong", lambda engine, bounces: 60e-9)
    monkeypatch.setattr(allreduce_plan.engine(comm.channel(world)), "line_latency_seconds", 60e-9)
    file = tmp_path / "rule.json" if world.rank == 0 else tmp_path / "unused"
    assert tune_allreduce(file, 8 << 10, 1) == 0
    world.Barrier()
    if world.rank == 0:
        found = Table.parse(file.read_text(), "file")
        assert [band.below_seconds for band in found.bands] == [band.below_seconds for band in shipped().bands]
        assert sum("pyhpc tune allreduce" in band.source for band in found.bands) == 1
    monkeypatch.setenv(FILE_VARIABLE, f"{place}/rule.json" if world.rank == 0 else "the first rank's counts")
    playing = allreduce_plan.engine(comm.channel(own))
    assert playing.table == world.bcast(playing.table)
    assert "pyhpc tune allreduce" in playing.table.band(0.0 if playing.crowded else playing.line_latency_seconds).source
    assert (allreduce(np.ones(3000, np.float32), own) == world.size).all()


def test_a_file_that_is_no_table_is_an_error_on_every_rank(world, own, tmp_path, monkeypatch):
    (tmp_path / "rule.json").write_text("{}")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "rule.json"))
    with pytest.raises(InvalidArgument, match=r"rule.json, bands: Field required"):
        allreduce(np.ones(3), own)


def test_a_faster_way_wins_and_a_tie_leaves_what_was(own, monkeypatch):
    if own.size == 1:
        return
    search = Search(comm.channel(own), rounds=5)
    cost = {"old": 1.0, "as good": 0.98, "better": 0.9, "worse": 1.5}
    monkeypatch.setattr(search, "seconds", lambda plan, *arrays: cost[plan])
    arrays = (np.zeros(1), np.zeros(1))

    def fastest(*names, preferred):
        return search.fastest({name: name for name in names}, list(preferred), arrays)

    assert fastest("old", "as good", "worse", preferred=["old"]) == "old"
    assert fastest("old", "better", "worse", preferred=["old"]) == "better"
    assert fastest("old", "as good", "worse", preferred=["worse", "old"]) == "old"
