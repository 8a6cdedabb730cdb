"""C++ beside the tests, compiled into libraries that ctypes loads."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled(name): tests/native/<name>.cpp as a library."""

    def load(name):
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip(f"{name}.cpp is compiled by g++, which is not on PATH")
        path = tmp_path_factory.mktemp("compiled") / f"{name}.so"
        options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w"]
        options.append("-fno-gnu-unique")  # or inline variables would be one in all of these libraries
        source = str(ROOT / "tests/native" / f"{name}.cpp")
        subprocess.run([compiler, *options, f"-I{ROOT / 'csrc'}", "-x", "c++", source, "-o", str(path)], check=True)
        return ctypes.CDLL(str(path))

    return load
