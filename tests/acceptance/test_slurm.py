"""The launcher slurm: with a pretended srun everywhere, and in a real Slurm, started here where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pyhpc import comm
from pyhpc.acceptance import records
from pyhpc.acceptance.launchers import slurm
from pyhpc.acceptance.launchers.launcher import _blamed
from pyhpc.acceptance.plan import Case, Step, read_plan
from pyhpc.errors import RunError
from pyhpc.measure.measurement import Sampling
from pyhpc.native import child_command

# Starts the tasks as srun does, in blocks on nodes n1, n2 …, without MPI; writes down its own words.
SRUN = """#!/bin/bash
echo "$@" >> "$SRUN_LOG"
while [[ $1 == --* ]]; do
  case $1 in --nodes=*) nodes=${1#*=};; --ntasks=*) tasks=${1#*=};; esac
  shift
done
for ((task = 0; task < tasks; task++)); do
  node=$((task * nodes / tasks))
  SLURM_PROCID=$task SLURM_STEP_NUM_TASKS=$tasks SLURM_NODEID=$node SLURMD_NODENAME=n$((node + 1)) "$@" &
done
status=0
for ((task = 0; task < tasks; task++)); do wait -n || status=$?; done
exit $status
"""

SUITE = """
schema = 1
name = "tiny"

[[step]]
name = "peak"
workload = "kernel"
cases = [{kernel = "peak", dtype = ["float32", "int8"], blocks = 1, variant = "generic"}]
sampling = {min_samples = 6, max_samples = 6, budget_seconds = 0.2, attempts = 1}
"""
ALLREDUCE = """
[[step]]
name = "allreduce"
workload = "allreduce"
ranks_per_node = 1
threads = 1
cases = [{elements = [1, 1000], variant = "ring"}]
sampling = {min_samples = 6, max_samples = 6, budget_seconds = 0.2, attempts = 1}
"""


@pytest.fixture
def allocation(tmp_path, monkeypatch):
    """An allocation of two nodes of four cores, with a pretended srun."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    variables = {
        "PATH": f"{srun.parent}:{os.environ['PATH']}",
        "SRUN_LOG": str(tmp_path / "srun.log"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    survey = slurm.survey  # a test may put something else in its place
    survey.cache_clear()
    yield tmp_path
    survey.cache_clear()


def step(ranks: int, threads: int) -> Step:
    fields = {"name": "x", "workload": "kernel", "nodes": "each", "timeout_seconds": 9.0, "cases": (), "limits": ()}
    return Step(ranks=ranks, threads=threads, sampling=Sampling(), **fields)


def test_outside_an_allocation_the_launcher_is_absent_and_says_why(allocation, monkeypatch):
    assert slurm.LAUNCHER.absence() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.LAUNCHER.absence() == "there is no srun on PATH"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm.LAUNCHER.absence() == "this process is in no Slurm allocation"


def test_every_node_of_the_allocation_says_what_it_is(allocation):
    found = slurm.survey()
    assert found.hosts == ("n1", "n2")
    assert found.machine.host == "n1"
    assert found.machine.cores >= 1


def test_nodes_that_do_not_answer_are_an_error_with_the_words_of_srun(allocation):
    (allocation / "bin" / "srun").write_text("#!/bin/sh\necho 'srun: error: n2: no such partition' >&2\nexit 1\n")
    with pytest.raises(RunError, match=r"0 of 2 nodes answered \(srun ended with status 1\): srun: error: n2: no such"):
        slurm.survey()


def test_a_node_that_is_not_like_the_others_is_named(allocation):
    machine = slurm.survey().machine
    nodes = [
        slurm.Node(machine=machine.model_copy(update={"host": f"n{i}", "cores": 3 if i == 2 else 4}), mpi="MPICH")
        for i in (1, 2, 3)
    ]
    with pytest.raises(RunError, match=r"most have .* 4 cores, .* but n2: .* 3 cores"):
        slurm._alike(nodes)
    assert slurm._alike([node for node in nodes if node.machine.cores == 4]).hosts == ("n1", "n3")


def test_lines_that_srun_mixes_are_put_together_again(allocation):
    whole = slurm.Node(machine=slurm.survey().machine, mpi=None).model_dump_json()
    half = len(whole) // 2
    mixed = f"1 pyhpc {whole[:half]}\n0 pyhpc {whole[:half]}\na warning\n0 pyhpc {whole[half:]}\n1 pyhpc {whole[half:]}"
    assert [node.model_dump_json() for node in slurm._read(mixed)] == [whole, whole]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_node_writes_each_line_at_once(unbuffered):
    read, write = os.pipe2(os.O_DIRECT)  # where each read returns what one write wrote
    environment = os.environ | {"SLURM_PROCID": "3", "PYTHONUNBUFFERED": unbuffered}
    subprocess.run(child_command("pyhpc.acceptance.launchers.slurm"), stdout=write, env=environment, check=True)
    os.close(write)
    writes = list(iter(lambda: os.read(read, 4096), b""))
    os.close(read)
    assert len(writes) > 1
    assert all(text.startswith(b"3 pyhpc ") and text.endswith(b"\n") and text.count(b"\n") == 1 for text in writes)


def test_a_step_gets_the_ranks_and_cores_it_asks_for(allocation, monkeypatch):
    slurm.survey()
    words, variables = slurm._start(step(ranks=4, threads=2))
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=2", "--cpu-bind=cores"} <= set(words)
    assert "--kill-on-bad-exit=1" in words
    assert not variables
    words, variables = slurm._start(step(ranks=10, threads=1))
    assert {"--ntasks-per-node=5", "--cpus-per-task=1", "--overcommit", "--cpu-bind=none"} <= set(words)
    assert variables == comm.yielding_environment()


def test_the_mpi_type_is_what_the_library_understands_unless_the_user_says_otherwise(allocation, monkeypatch):
    found = slurm.survey()
    for library, option in (("Open MPI v5.0.11", ["--mpi=pmix"]), ("MPICH Version: 5", ["--mpi=pmi2"]), (None, [])):
        known = slurm.Allocation(found.hosts, found.machine, library)
        monkeypatch.setattr(slurm, "survey", lambda known=known: known)
        assert [word for word in slurm._start(step(2, 1))[0] if word.startswith("--mpi")] == option
    monkeypatch.setenv("SLURM_MPI_TYPE", "pmi1")
    assert not [word for word in slurm._start(step(2, 1))[0] if word.startswith("--mpi")]


def accept(folder, *words):
    command = [sys.executable, "-m", "pyhpc", "accept", *words]
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False
    )


def test_in_an_allocation_each_step_is_an_srun_and_its_records_name_the_node(allocation, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    (allocation / "tiny.toml").write_text(SUITE)
    done = accept(allocation, "tiny.toml", "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    plan, (found, _) = read_plan(allocation / "run"), records.load(allocation / "run")
    assert (plan.launcher, plan.hosts, plan.machine.host) == ("slurm", ("n1",), "n1")
    assert [m.subject.host for m in found] == ["n1", "n1"]
    assert "--nodelist=n1 pyhpc accept tiny.toml" in done.stdout
    survey, measured = (allocation / "srun.log").read_text().splitlines()
    assert "launchers.slurm" in survey
    assert "acceptance.worker" in measured


def test_a_run_is_not_resumed_on_other_nodes(allocation, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    (allocation / "tiny.toml").write_text(SUITE)
    assert accept(allocation, "tiny.toml", "--out", "run").returncode == 0
    (allocation / "bin" / "srun").write_text(SRUN.replace("NODENAME=n", "NODENAME=m"))
    done = accept(allocation, "--resume", "run")
    assert done.returncode == 3
    assert "this run was started with nodes 'n1' and cannot go on with 'm1'" in done.stderr


UNFINISHED = {rank: {"phase": "sampling", "pid": 100 + rank, "host": f"n{rank // 2 + 1}"} for rank in range(4)}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        # As srun 22.05 printed it: it ends the other tasks after the culprit, and names them too.
        (
            "srun: error: n2: task 3: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=32.3\n"
            "srun: error: n2: task 2: Terminated\nsrun: error: n1: tasks 0-1: Terminated\n",
            {3: "ended (Killed)"},
        ),
        ("srun: error: n1: tasks 0,2-3: Segmentation fault\n", dict.fromkeys((0, 2, 3), "ended (Segmentation fault)")),
        ("srun: error: Node failure on n2\n", dict.fromkeys((2, 3), "was lost with its node")),
        ("srun: Job step aborted\n", {}),
    ],
)
def test_the_first_task_that_srun_names_is_blamed_and_not_those_it_ended_itself(output, expected):
    assert _blamed(output, UNFINISHED, "ended with exit status 143") == expected


def test_a_step_that_srun_cannot_start_says_what_srun_said(allocation):
    slurm.survey()
    (allocation / "bin" / "srun").write_text("#!/bin/sh\necho 'srun: error: Unable to create step' >&2\nexit 1\n")
    case = Case(name="float32", kernel="peak", variant="generic", problem={"dtype": "float32", "blocks": 1})
    folder = allocation / "peak.1"
    folder.mkdir()
    found = slurm.launch(step(2, 1).model_copy(update={"cases": (case,)}), 1, folder, lambda *told: None)
    assert [m.subject.rank for m in found] == [0, 1]
    assert all(m.error.endswith("printed last: srun: error: Unable to create step") for m in found)


def _cluster_absence() -> str | None:
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name) is None]:
        return f"{', '.join(missing)} cannot be found (Debian: slurm-wlm)"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    return comm.installation_absence()


@pytest.fixture(scope="module")
def cluster():
    """A real Slurm of the nodes n1 and n2, all on this machine, for `srun` and `salloc`; ended afterwards."""
    if (reason := _cluster_absence()) is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        folder = Path(place)
        folder.chmod(0o755)
        for name in ("munge", "state", "n1", "n2"):
            (folder / name).mkdir()
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o600)
        base = 17_300 + os.getpid() % 1000 * 3
        configuration = SLURM_CONF.format(
            folder=folder, host=socket.gethostname(), base=base, first=base + 1, second=base + 2
        )
        (folder / "slurm.conf").write_text(configuration)
        for name in [name for name in os.environ if name.startswith("SLURM")]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / 'munge' / file}" for option, file in files.items()]
        daemons = [["munged", "--foreground", "--force", *options], ["slurmctld", "-D"]]
        daemons += [["slurmd", "-D", "-N", node] for node in ("n1", "n2")]
        with open(folder / "log", "wb") as log, contextlib.ExitStack() as started:
            for words in daemons:
                daemon = started.enter_context(
                    subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                )
                started.callback(daemon.terminate)
            _wait_for_nodes(2, folder / "log")
            yield


def _wait_for_nodes(count: int, log: Path) -> None:
    """Until so many nodes are idle."""
    for _ in range(100):
        asked = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and sum(map(int, asked.stdout.split())) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"Slurm does not come up: {asked.stderr}{log.read_text()[-2000:]}")


SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={base}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
PropagateResourceLimitsExcept=MEMLOCK
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 CoresPerSocket=2 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 CoresPerSocket=2 RealMemory=2000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def test_two_real_nodes_are_accepted_together(cluster, tmp_path):
    (tmp_path / "tiny.toml").write_text(SUITE + ALLREDUCE)
    command = ["salloc", "-N2", "--exclusive", sys.executable, "-m", "pyhpc", "accept", "tiny.toml", "--out", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["coverage"]["nodes_measured"] == 2
    hosts = {m["subject"]["host"] for m in report["measurements"] if m["ranks"] == 1}
    assert hosts == set(report["plan"]["hosts"])


def test_tasks_of_two_nodes_that_srun_started_all_reduce_by_every_algorithm_and_order(cluster):
    kind = comm.slurm_mpi(comm.library_at_rest() or "") or "none"
    program = Path(__file__).parents[1] / "mpi" / "every_algorithm.py"
    done = subprocess.run(
        ["srun", f"--mpi={kind}", "-N2", "-n4", "--overcommit", "--kill-on-bad-exit=1", sys.executable, str(program)],
        env=os.environ | comm.yielding_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 ranks on 2 nodes" in done.stdout
