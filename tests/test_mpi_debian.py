"""Debian's MPICH 4 and Open MPI 4, unpacked into a folder: nothing is installed, and no other MPI is disturbed.

mpi4py from PyPI takes either. It looks for libmpi.so.12 (MPICH) or libmpi.so.40 (Open MPI); Debian calls the former
libmpich.so.12, so a link with the expected name must be on the library path. MPI4PY_LIBMPI says which one is meant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from pyhpc import comm

TESTS = Path(__file__).parent / "mpi"

# With what they are linked to and a bare Debian does not have: 15 MB, a few seconds.
PACKAGES = ["mpich", "libmpich12", "openmpi-bin", "openmpi-common", "libopenmpi3", "hwloc-nox", "libhwloc15", "libucx0"]
PACKAGES += ["libfabric1", "libslurm38", "libpmix2", "libevent-core-2.1-7", "libevent-pthreads-2.1-7", "libnl-3-200"]
PACKAGES += ["libnl-route-3-200", "libibverbs1", "ibverbs-providers", "librdmacm1", "libpsm2-2", "libpsm-infinipath1"]
PACKAGES += ["libmunge2", "libltdl7", "libnuma1"]
FLAVOURS = {"mpich": ("MPICH Version: 4.", "libmpich.so.12"), "openmpi": ("Open MPI v4.", "libmpi.so.40")}


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """The folder with both."""
    if shutil.which("apt-get") is None or "Debian" not in Path("/etc/os-release").read_text():
        pytest.skip("this is no Debian, whose packages these are")
    folder = tmp_path_factory.mktemp("debian")
    done = subprocess.run(
        ["apt-get", "-qq", "download", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    if done.returncode:
        pytest.skip(f"Debian's packages cannot be had: {done.stderr.strip().splitlines()[-1]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder], check=True)
    return folder


@pytest.fixture(params=FLAVOURS)
def start_debian(request, debian, monkeypatch, tmp_path):
    """start(ranks, words, …) as of the fixture `start`, on one of Debian's MPIs; and how its name begins."""
    says, library = FLAVOURS[request.param]
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    place = debian / "usr" / "lib" / triplet
    link = place / "libmpi.so.12"
    if not link.exists():
        link.symlink_to(place / "libmpich.so.12")
    path = [place, debian / "lib" / triplet, *(file.parent for file in debian.rglob("libpsm_infinipath.so.1*"))]
    variables = {
        "MPI4PY_LIBMPI": place / library.replace("mpich", "mpi"),
        "LD_LIBRARY_PATH": ":".join(map(str, path)),
        "OPAL_PREFIX": debian / "usr",
        "OMPI_MCA_btl": "self,vader",
        "OMPI_MCA_mtl": "^ofi,psm,psm2",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return says


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_algorithm_and_order_is_right_on_debian_s_mpi(start_debian, start_ranks, ranks):
    status, said = start_ranks(ranks, [TESTS / "every_algorithm.py"])
    assert status == 0, said
    assert f"{ranks} ranks on 1 nodes, {start_debian}" in said, said


def test_the_engine_s_tests_pass_on_debian_s_mpi(start_debian, start_ranks, run_pytest):
    status, said = start_ranks(2, [*run_pytest, "-m", "any_world", TESTS / "test_engine.py"])
    assert status == 0, said
    assert said.count(" passed") == 2, said


def test_mpiexec_of_a_debian_library_is_that_of_its_flavour(start_debian):
    assert comm.mpiexec().name == ("mpiexec.mpich" if start_debian.startswith("MPICH") else "mpiexec.openmpi")
