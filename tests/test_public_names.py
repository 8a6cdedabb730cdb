"""The names a user can import, and that the stubs of the compiled modules say what the modules have."""

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import pyhpc
from pyhpc import native

PUBLIC = {"__version__", "attention", "attention_backward", "matmul", "pack", "scaled_matmul"}
PUBLIC |= {"allreduce", "AllReduce", "allreduce_buffer"}


def test_the_public_names_are_these_and_no_others():
    assert set(pyhpc.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(pyhpc, name) is not None
    with pytest.raises(AttributeError, match="module 'pyhpc' has no attribute 'gemm'"):
        _ = pyhpc.gemm


def test_dir_and_star_import_show_the_public_names():
    assert set(dir(pyhpc)) >= PUBLIC
    namespace: dict[str, object] = {}
    exec("from pyhpc import *", namespace)
    assert set(namespace) >= PUBLIC - {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_function_is_documented_and_typed(name):
    function = getattr(pyhpc, name)
    for part in ("Args:", "Returns:", "Raises:"):
        assert part in function.__doc__
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert re.search(rf"\b{parameter.name}\b", function.__doc__), f"{name} does not say what {parameter.name} is"


def stub_of(module: str) -> dict[str, dict[str, list[str]]]:
    """Class (or "" for the module) → function → parameters, as the stub says."""
    tree = ast.parse(Path(pyhpc.__file__).with_name(f"{module}.pyi").read_text())
    found: dict[str, dict[str, list[str]]] = {"": {}}

    def functions(body: list[ast.stmt]) -> dict[str, list[str]]:
        nodes = [node for node in body if isinstance(node, ast.FunctionDef)]
        return {node.name: [argument.arg for argument in node.args.args] for node in nodes}

    found[""] = functions(tree.body)
    found |= {node.name: functions(node.body) for node in tree.body if isinstance(node, ast.ClassDef)}
    return found


def functions_of(module: ModuleType) -> dict[str, list[str]]:
    """Function → parameters, as pybind11 writes them into the first line of its docstring."""
    found = {}
    for name, value in vars(module).items():
        if inspect.isbuiltin(value):
            signature = value.__doc__.splitlines()[0]
            found[name] = re.findall(r"[(,] ?(\w+): ", signature)
    return found


@pytest.mark.parametrize("module", ["_cpu", "_cuda"])
def test_the_stub_has_every_function_with_its_parameters(module):
    if module == "_cuda":
        reason = native.cuda_absence()
        if reason is not None and "this build has no" in reason:
            pytest.skip(reason)
    compiled = __import__(f"pyhpc.{module}", fromlist=[module])
    stub = stub_of(module)
    submodules = {name: value for name, value in vars(compiled).items() if inspect.ismodule(value)}
    assert set(submodules) == {name for name in stub if name and name[0].islower()}
    assert functions_of(compiled) == stub[""]
    for name, submodule in submodules.items():
        assert functions_of(submodule) == stub[name]
