"""The machine a run stands on: probed once, stored in every run."""

from __future__ import annotations

from pyhpc.measure.measurement import Record


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
    libraries: dict[str, str] = {}  # name → version: pyhpc, numpy, numba, mpi, compiler ...
    environment: dict[str, str] = {}  # OMP_*, SLURM_*, MPI settings, CUDA_*, UCX_*, OPENBLAS_* ...
