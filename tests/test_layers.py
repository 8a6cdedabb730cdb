"""The house rules that can be read off the source: who imports whom, who alone imports what, how long a file is."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import pyhpc
from pyhpc.kernels.kernel import kernels

PACKAGE = Path(pyhpc.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Part → the parts it may import, itself aside: cli → acceptance, tuning → kernels, measure, machine, comm →
# native, device → errors. kernels and measure do not know each other.
GROUND = {"errors", "native", "device", "registry"}
TOOLS = GROUND | {"kernels", "measure", "machine", "comm", "home"}
MAY_IMPORT = {
    "errors": set(),
    "registry": set(),
    "native": {"errors"},
    "device": {"errors", "native"},
    "comm": GROUND,
    "measure": GROUND | {"comm"},
    "home": GROUND | {"kernels", "measure"},
    "machine": GROUND | {"measure", "comm"},
    "kernels": GROUND | {"comm"},
    "acceptance": TOOLS,
    "tuning": TOOLS,
    "__init__": {"kernels"},
    "__main__": {"cli"},
}
SINGLE_IMPORTERS = {"_cpu": "native.py", "_cuda": "native.py", "cupy": "device.py", "mpi4py": "comm.py"}
STAGES = ["config", "plan", "judge", "report"]  # of acceptance, each importing only what comes before it


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


PARTS = {part_of(file) for file in FILES}


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_import_goes_down_the_layers():
    wrong = {}
    for file in FILES:
        part = part_of(file)
        # What is not in the table is a command's own code, beside cli: it may use everything that is.
        allowed = MAY_IMPORT.get(part, PARTS - ({"cli"} if part != "cli" else set()))
        inside = {name.split(".")[1] for name in imports(file) if name.startswith("pyhpc.")}
        wrong[name_of(file)] = (inside & PARTS) - {part} - allowed
    assert not {file: parts for file, parts in wrong.items() if parts}


def test_each_optional_library_has_one_importer():
    wrong = []
    for file in FILES:
        for name in imports(file):
            module = name.removeprefix("pyhpc.").split(".")[0]
            if SINGLE_IMPORTERS.get(module, name_of(file)) != name_of(file):
                wrong.append(f"{name_of(file)} imports {module}; only {SINGLE_IMPORTERS[module]} may")
    assert not wrong


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_an_acceptance_knows_no_later_one(stage):
    later = {f"pyhpc.acceptance.{name}" for name in STAGES[STAGES.index(stage) + 1 :]} | {"pyhpc.acceptance.run"}
    used = imports(PACKAGE / "acceptance" / f"{stage}.py")
    assert not {name for name in used for other in later if name == other or name.startswith(f"{other}.")}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    program = f"import sys; {statement}; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


HEAVY = {"numpy", "numba", "torch", "matplotlib", "scipy", "pydantic", "mpi4py", "cupy", "ml_dtypes", "rich", "click"}


def test_import_pyhpc_loads_nothing_heavy():
    assert not modules_after("import pyhpc") & HEAVY


def test_the_public_functions_load_numpy_and_nothing_heavier():
    loaded = modules_after("from pyhpc import attention, matmul")
    assert not loaded & (HEAVY - {"numpy", "ml_dtypes"})


def test_a_stored_run_is_judged_and_reported_without_numpy_or_mpi():
    formats = [
        f"pyhpc.acceptance.formats.{file.stem}" for file in (PACKAGE / "acceptance" / "formats").glob("[!_]*.py")
    ]
    loaded = modules_after("import " + ", ".join(["pyhpc.acceptance.judge", "pyhpc.acceptance.report", *formats]))
    assert not loaded & {"numpy", "cupy", "mpi4py", "torch", "numba"}


def test_listing_the_kernels_loads_no_compiler_and_no_peer():
    assert not modules_after("from pyhpc.kernels.kernel import kernels; kernels()") & {"numba", "torch", "matplotlib"}


def test_no_file_is_longer_than_500_lines():
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in [*FILES, *PACKAGE.rglob("*.pyi")]}
    assert not {file: length for file, length in lengths.items() if length > 500}


def test_every_file_opens_by_saying_what_it_is():
    silent = [name_of(file) for file in FILES if file.stem != "__init__" and not ast.get_docstring(tree_of(file))]
    assert not silent


def test_every_file_with_a_kernel_is_in_the_registry_under_its_own_name():
    with_kernel = {file.stem for file in (PACKAGE / "kernels").glob("*.py") if "\nKERNEL = " in file.read_text()}
    assert set(kernels()) == with_kernel
