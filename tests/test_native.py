from __future__ import annotations

import subprocess

import pyhpc
from pyhpc.native import child_command


def test_a_child_has_this_package_even_where_another_lies_in_the_current_folder(tmp_path):
    (tmp_path / "pyhpc").mkdir()
    (tmp_path / "pyhpc" / "__init__.py").write_text("raise ImportError('the wrong package')")
    done = subprocess.run(
        [*child_command("pyhpc.cli"), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"pyhpc {pyhpc.__version__}\n", done.stderr
