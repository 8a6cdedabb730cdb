"""What every CPU kernel shares: the machine's description, array views, and the build's check of target objects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhpc import native
from pyhpc.errors import InvalidArgument

CHECK = Path(__file__).parents[2] / "csrc/check_symbols.cmake"


def test_cache_sizes_grow_with_the_level():
    sizes = native.cpu().cache_sizes()
    known = [sizes[level] for level in ("l1d", "l2", "l3") if sizes[level]]
    assert all(size >= 0 for size in sizes.values())
    assert known == sorted(known)


def test_generic_code_runs_everywhere_and_an_unknown_target_nowhere():
    assert native.cpu().target_refusal("generic") is None
    assert native.cpu().target_refusal("z80") == "this build has no code for that target"


def flags_of_this_processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":")[1].split())
    return set()


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        ("avx2", {"avx2", "fma", "f16c"}),
        ("avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
        ("avx512_vnni", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
        ("avx512_bf16", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"}),
        ("neon", {"asimdhp"}),
        ("neon_bf16", {"asimdhp", "bf16", "i8mm"}),
    ],
)
def test_a_target_runs_where_the_kernel_of_the_system_reports_its_instructions(target, needed):
    assert (native.cpu().target_refusal(target) is None) == (needed <= flags_of_this_processor())


def available_threads(**environment):
    program = "from pyhpc import native; print(native.cpu().available_threads())"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_threads_follow_the_affinity_mask_unless_omp_num_threads_is_set():
    assert 1 <= available_threads() <= len(os.sched_getaffinity(0))
    assert available_threads(OMP_NUM_THREADS="3") == 3
    assert available_threads(OMP_NUM_THREADS="3,2") == 3
    assert available_threads(OMP_NUM_THREADS="none") == available_threads()


def run_on(a):
    out = np.full((a.shape[0], 1), np.nan, np.float32)
    native.cpu().matmul.run(a, np.ones((a.shape[1], 1), np.float32), out)
    return out


def test_strides_of_single_element_dimensions_are_ignored():
    odd = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), (1, 4), (7, 4))
    assert run_on(odd) == 4


def test_a_stride_of_broken_elements_is_refused():
    record = np.zeros((3,), np.dtype([("tag", "u1"), ("pad", "u1", 3), ("x", "f4", (2,)), ("end", "u1")]))
    with pytest.raises(InvalidArgument, match="a has a stride of 13 bytes, which is not a whole number of elements"):
        run_on(record["x"])


PLACES = st.tuples(st.integers(50, 90), st.integers(-12, 12), st.integers(-12, 12))  # first element, two strides
# of a result: slices of rows or columns, not rows that interleave, which are refused to be on the safe side
RESULT_PLACES = PLACES.filter(lambda place: not 0 < abs(place[1]) < 3 * abs(place[2]) < 9 * abs(place[1]))


def placed(memory, place, shape):
    first, *strides = place
    return np.lib.stride_tricks.as_strided(memory[first:], shape, [4 * stride for stride in strides])


@settings(max_examples=300, deadline=None)
@given(a_place=PLACES, out_place=RESULT_PLACES, m=st.integers(1, 3), n=st.integers(1, 3), k=st.integers(1, 3))
def test_shared_memory_is_refused_exactly_where_it_is(a_place, out_place, m, n, k):
    memory = np.ones(140, np.float32)
    a, out = placed(memory, a_place, (m, k)), placed(memory, out_place, (m, n))
    addresses = {out_place[0] + i * out_place[1] + j * out_place[2] for i in range(m) for j in range(n)}
    if len(addresses) < m * n:
        sentence = "out has elements that share memory"
    elif np.shares_memory(a, out):
        sentence = "out shares memory with a"
    else:
        native.cpu().matmul.run(a, np.ones((k, n), np.float32), out)
        assert (out == k).all()
        return
    with pytest.raises(InvalidArgument, match=sentence):
        native.cpu().matmul.run(a, np.ones((k, n), np.float32), out)


class Exporter:
    """Gives its array through DLPack, with or without the newer protocol."""

    def __init__(self, array, versioned):
        self.array, self.versioned = array, versioned

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        if not self.versioned and options:
            raise TypeError("__dlpack__() got an unexpected keyword argument")
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack_of_either_version_is_viewed_without_a_copy(versioned):
    out = np.zeros((2, 2), np.float32)
    native.cpu().matmul.run(
        Exporter(np.eye(2, dtype=np.float32), versioned), np.full((2, 2), 5, np.float32), Exporter(out, versioned)
    )
    assert (out == 5).all()


def test_read_only_memory_that_dlpack_tells_of_is_not_written():
    frozen = np.zeros((2, 2), np.float32)
    frozen.flags.writeable = False
    try:
        frozen.__dlpack__(max_version=(1, 0))
    except (TypeError, BufferError) as error:
        pytest.skip(f"this NumPy does not export read-only arrays: {error}")
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(InvalidArgument, match="out is read-only"):
        native.cpu().matmul.run(ones, ones, Exporter(frozen, True))


def test_the_views_do_not_leak_references():
    a = np.ones((2, 2), np.float32)
    exporter = Exporter(a, True)
    before = sys.getrefcount(a)
    for _ in range(10):
        native.cpu().matmul.run(exporter, a, np.empty((2, 2), np.float32))
    assert sys.getrefcount(a) == before


TOOLS = [tool for tool in ("cmake", "g++", "nm") if shutil.which(tool) is None]


@pytest.mark.skipif(bool(TOOLS), reason=f"not installed: {', '.join(TOOLS)}")
@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("", None),
        ("inline int shared() { return 1; } int (*use)() = shared;", "defines the shared symbol"),
        (
            "template <class T> struct Box { static int value; }; template <class T> int Box<T>::value = 1; "
            "namespace { int* use __attribute__((used)) = &Box<int>::value; }",
            "shared symbol 'Box<int>::value'",
        ),
    ],
)
def test_the_build_refuses_a_target_object_with_shared_symbols(tmp_path, extra, complaint):
    source, compiled = tmp_path / "avx2.cpp", tmp_path / "avx2.o"
    source.write_text(f"namespace pyhpc::demo {{ extern const int avx2; const int avx2 = 1; }}\n{extra}\n")
    subprocess.run(["g++", "-std=c++17", "-c", source, "-o", compiled], check=True)
    options = [
        f"-DNM={shutil.which('nm')}",
        f"-DOBJECTS={compiled}",
        "-DKERNEL=demo",
        "-DTARGET=avx2",
        f"-DSTAMP={tmp_path / 'stamp'}",
    ]
    done = subprocess.run(["cmake", *options, "-P", CHECK], capture_output=True, text=True)
    assert (done.returncode == 0) == (complaint is None)
    assert (tmp_path / "stamp").exists() == (complaint is None)
    if complaint:
        assert complaint in " ".join(done.stderr.split())


@pytest.mark.parametrize("kernel", ["matmul", "attention", "allreduce", "memory", "peak"])
def test_a_forced_instruction_set_that_a_kernel_lacks_gives_its_next_best(monkeypatch, kernel):
    """A kernel without an avx512_vnni file, say, runs its avx512 one; forcing generic gives generic everywhere."""
    from pyhpc.kernels.kernel import kernels

    runnable = [name for name, refusal in getattr(native.cpu(), kernel).variants() if not refusal]
    for number, target in enumerate(native.cpu().targets()):
        if native.cpu().target_refusal(target) is not None:
            continue
        monkeypatch.setenv("PYHPC_VARIANT", target)
        expected = next(name for name in native.cpu().targets()[number:] if name in runnable)
        assert kernels()[kernel]._at_most(target) == expected
        if kernel == "peak":
            assert (
                native.cpu().peak.run("float32", 1, 1)
                == kernels()["peak"].problem({"dtype": "float32", "blocks": 1}).flops
            )


@pytest.mark.parametrize(
    ("typestr", "sentence"),
    [("<V2", "a is on CUDA device 0"), ("<f4", "a is on CUDA device 0"), ("<V4", "element kind 'V32'")],
)
def test_the_type_string_of_bfloat16_on_a_gpu_is_known(typestr, sentence):
    interface = {"shape": (2, 2), "typestr": typestr, "data": (4096, False), "version": 3}
    on_gpu = SimpleNamespace(__cuda_array_interface__=interface)
    with pytest.raises(InvalidArgument, match=sentence):
        native.cpu().matmul.run(on_gpu, on_gpu, on_gpu)
