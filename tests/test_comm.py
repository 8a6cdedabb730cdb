from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from pyhpc import comm
from pyhpc.errors import Unsupported

ENVIRONMENTS = {
    "nothing": ({}, None),
    "hydra": ({"PMI_RANK": "3", "PMI_SIZE": "8"}, comm.Launch("mpiexec", 3, 8)),
    "open_mpi": (
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"},
        comm.Launch("Open MPI's mpiexec", 1, 2),
    ),
    "srun_pmi2": (
        {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "PMI_RANK": "5", "PMI_SIZE": "16"},
        comm.Launch("srun", 5, 16),
    ),
    "srun_pmix": ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "PMIX_RANK": "0"}, comm.Launch("srun", 0, 4)),
    "srun_without_mpi": ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, comm.Launch("srun", 1, 2)),
    # Hydra in a batch script of two nodes: srun started its two proxies, each of which started two ranks.
    "hydra_in_slurm": (
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "1", "PMI_SIZE": "4"},
        comm.Launch("mpiexec", 1, 4),
    ),
    "pmix_without_a_size": ({"PMIX_RANK": "2"}, comm.Launch("a PMIx launcher", 2, None)),
    "a_batch_script_is_no_rank": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),
    "nonsense": ({"PMI_RANK": "first"}, None),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_the_launcher_is_told_from_the_environment_alone(case):
    environment, expected = ENVIRONMENTS[case]
    assert comm.launch(environment) == expected


def test_a_task_of_srun_names_its_node_as_slurm_does_and_any_other_process_by_its_host():
    slurm = {"SLURMD_NODENAME": "n7", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    assert comm.node_name(slurm) == "n7"
    assert comm.node_name(slurm | {"PMI_RANK": "1", "PMI_SIZE": "4"}) == socket.gethostname()
    assert comm.node_name({}) == socket.gethostname()


def run(program: str, *words: str) -> str:
    done = subprocess.run(
        [*words, sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_comm_and_asking_for_the_launcher_starts_no_mpi():
    assert run("import sys, pyhpc.comm as c; c.launch(); print('mpi4py' in sys.modules)") == "False"


def test_without_mpi4py_the_sentence_says_what_to_install():
    program = "import sys; sys.modules['mpi4py'] = None; import pyhpc.comm as c; print(c.absence())"
    assert "pip install 'pyhpc[local]'" in run(program)
    raising = program.replace("print(c.absence())", "c.world()")
    with pytest.raises(AssertionError, match="MPI is absent because mpi4py is not installed"):
        run(raising)


def test_without_mpiexec_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(comm, "mpiexec", lambda: None)
    with pytest.raises(Unsupported, match="no mpiexec; pip install"):
        comm.mpiexec_command(2)


def test_ranks_that_outnumber_the_cores_make_mpich_yield_unless_the_caller_says_otherwise(monkeypatch):
    monkeypatch.setenv("MPIR_CVAR_POSIX_POLL_FREQUENCY", "7")
    assert comm.mpiexec_environment(1) == {}
    assert comm.mpiexec_environment(10_000) == {"MPIR_CVAR_DEVICE_COLLECTIVES": "none"}


needs_mpi = pytest.mark.skipif(comm.mpiexec() is None, reason=f"there is no mpiexec: {comm.INSTALL}")


@needs_mpi
def test_mpi_starts_at_thread_level_funneled_and_names_itself():
    level, library = run("import pyhpc.comm as c; c.world(); print(c.thread_level()); print(c.library())").splitlines()
    assert level == "funneled"
    assert "MPI" in library


@needs_mpi
def test_tasks_of_srun_that_mpi_does_not_join_are_refused_with_the_type_to_give(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    said = run("import pyhpc.comm as c; print(c.absence())")
    assert said.startswith("srun started 2 processes and ")
    assert "made each of them a world of its own; start them with srun --mpi=pm" in said


@needs_mpi
def test_the_library_is_named_without_starting_mpi():
    program = "import pyhpc.comm as c; n = c.library_at_rest(); from mpi4py import MPI; print(MPI.Is_initialized(), n)"
    assert run(program).startswith("False ")


@needs_mpi
def test_the_words_of_mpiexec_command_start_as_many_ranks_as_asked():
    program = (
        "import pyhpc.comm as c; p = c.place()\n"
        "print(f'{p.ranks} {p.local_ranks} {c.local_rank() == p.rank} {c.launched()}\\n', end='', flush=True)"
    )
    assert run(program, *comm.mpiexec_command(2)).split("\n") == ["2 2 True True"] * 2


@needs_mpi
def test_an_uncaught_exception_of_one_rank_ends_the_whole_job():
    program = (
        "import pyhpc.comm as c; w = c.world(); c.abort_on_uncaught_exception()\n"
        "if w.rank == 1: raise ValueError('rank 1 gives up')\n"
        "w.Barrier()"
    )
    with pytest.raises(AssertionError, match="rank 1 gives up"):
        run(program, *comm.mpiexec_command(2))


@needs_mpi
@pytest.mark.parametrize(
    ("comm_of", "sentence"),
    [("object()", "give an mpi4py communicator"), ("c.mpi().COMM_NULL", "was freed"), ("freed", "was freed")],
)
def test_what_is_no_communicator_is_refused(comm_of, sentence):
    program = f"import pyhpc.comm as c; freed = c.world().Dup(); freed.Free(); c.channel({comm_of})"
    with pytest.raises(AssertionError, match=f"InvalidArgument.*{sentence}"):
        run(program)


@needs_mpi
def test_the_channel_of_a_communicator_is_kept_and_freed_with_it():
    program = (
        "import pyhpc.comm as c; d = c.world().Dup(); k = c.channel(d); same = c.channel(d) is k\n"
        "d.Free(); print(same, k.comm == c.mpi().COMM_NULL)"
    )
    assert run(program) == "True True"
