""".ci/cuda-gate fails on what ptxas says of a bad kernel."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / ".ci/cuda-gate"
GOOD = """ptxas info    : Compiling entry function '_Z4goodv' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 8320 bytes smem, 656 bytes cmem[0]
"""
SPILLS = GOOD.replace("0 bytes spill stores", "8 bytes spill stores")
FRAME = GOOD.replace("0 bytes stack frame", "16 bytes stack frame")
SERIALISED = GOOD + "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n"


@pytest.fixture
def gate(monkeypatch):
    if not PATH.exists():
        pytest.skip(".ci is not part of this source tree")
    loader = SourceFileLoader("cuda_gate", str(PATH))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("cuda_gate", loader))
    monkeypatch.setitem(sys.modules, "cuda_gate", module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


def read(gate, text):
    result = gate.Object(Path("sm80.cu"), "sm_80")
    gate.read_messages(text, result)
    return result


def test_a_good_kernel_has_its_figures_and_no_fault(gate):
    result = read(gate, GOOD)
    assert result.faults == []
    assert result.kernels == [gate.Kernel("_Z4goodv", stack=0, spills=0, registers=80, shared=8320)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (SPILLS, "spills 8 bytes"),
        (FRAME, "stack frame of 16"),
        (SERIALISED, "C7510"),
        ("", "no kernel"),
        (GOOD.replace("8320 bytes", "49153 bytes"), "49153 bytes of static shared memory"),
        (GOOD.replace("80 registers", "256 registers"), "uses 256 registers"),
    ],
)
def test_a_bad_kernel_is_a_fault(gate, text, fault):
    (found,) = read(gate, text).faults
    assert fault in found


HOPPER = """
        Function : _Z4goodv
        /*0010*/  USETMAXREG.DEALLOC.CTAPOOL 0x28 ;
        /*0020*/  UTMALDG.3D.MULTICAST [UR8], [UR4], UR6 ;
        /*0030*/  WARPGROUP.ARRIVE ;
        /*0040*/  HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
        /*0050*/  HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (HOPPER, None),
        (HOPPER + HOPPER.replace("UTMALDG", "LDG").replace("good", "evil"), "_Z4evilv has no UTMALDG"),
        (HOPPER + HOPPER.replace("HGMMA", "HMMA").replace("good", "evil"), "_Z4evilv has no [HQI]GMMA"),
        (HOPPER.replace("USETMAXREG", "NOP"), "no USETMAXREG"),
        (HOPPER.replace("/*0050*/  HGMMA", "/*0050*/  NOP"), "1 WARPGROUP.ARRIVE for 1 products"),
        (HOPPER + "        /*0060*/  STL [R1], R2 ;", "uses local memory"),
        (HOPPER.replace("good", "8Bfloat16"), None),
        (HOPPER.replace("good", "7Float16"), "_Z47Float16v has no HGMMA"),
        (HOPPER.replace("good", "10Float8E4m3"), "has no QGMMA"),
        (HOPPER.replace("good", "4TileIa"), "has no IGMMA"),
    ],
)
def test_each_kernel_for_hopper_must_use_what_it_is_built_on(gate, text, fault):
    result = gate.Object(Path("sm90.cu"), "sm_90a")
    gate.read_machine_code(text, result)
    assert [fault in found for found in result.faults][:1] == [True] * (fault is not None), result.faults


def test_float64_must_use_the_tensor_cores_of_its_architecture(gate):
    code = "Function : _Z7doublesv\n /*0010*/ {} R8, R8, R8, R8 ;\n Function : _Z5otherv\n /*0010*/ HMMA.16816.F32 R4 ;"
    for architecture, form, missed in [("sm_80", "DMMA.884", "DFMA"), ("sm_90", "DMMA.16x8x8", "DMMA.884")]:
        for word in (form, missed):
            result = gate.Object(Path("sm80.cu"), architecture)
            gate.read_machine_code(code.format(word), result)
            assert [("doubles" in fault) for fault in result.faults] == [True] * (word == missed)


def test_the_loops_of_peak_need_the_matrix_instruction_alone(gate):
    bare = HOPPER.replace("USETMAXREG", "NOP").replace("UTMALDG", "NOP").replace("_Z4goodv", "_Z12wgmma_kernelv")
    for text, faults in ((bare, 0), (bare.replace("WARPGROUP.ARRIVE", "HGMMA").replace("HGMMA", "FFMA"), 3)):
        result = gate.Object(Path("peak/sm90.cu"), "sm_90a")
        gate.read_machine_code(text, result)
        assert len(result.faults) == faults, result.faults


def test_without_nvcc_the_gate_says_that_nothing_was_checked(gate, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gate.main() == 0
    assert "skipped, because nvcc is not on PATH" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_a_kernel_whose_array_leaves_the_registers_is_found_by_compiling(gate, tmp_path, monkeypatch):
    folder = tmp_path / "memory"
    folder.mkdir()
    source = folder / "sm80.cu"
    body = "int a[64] = {}; for (int i = 0; i < p[0]; ++i) a[p[i] & 63] += i; p[0] = a[p[1] & 63];"
    source.write_text(f"__global__ void kernel(int* p) {{ {body} }}")
    found = gate.compile_one(source, "sm_80", None)
    assert [fault for fault in found.faults if "stack frame of 256 bytes" in fault]
