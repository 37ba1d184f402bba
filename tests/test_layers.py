"""The house: who may import whom, and what is public."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import ignite_tips

ROOT = Path(__file__).parents[1]
# A file of ignite_tips is of layer 1 (torch alone) unless it is named here; handlers are of layer 3.
LAYER_0 = {"_checks", "_version"}
LAYER_2 = {
    "attachment",
    "distributed",
    "events",
    "gradients.clipper",
    "gradients.idleness",
    "notices",
    "parameters.model_part",
    "parameters.triggers",
    "plot",
    "rewrapping",
    "schedules.fit",
    "schedules.rivals",
    "schedules.validation_metric",
    "step_tracking",
    "tensorboard.resumable_logger",
    "tensorboard.scalar_sinks",
}
# Files that others of their own layer may import, beside the files of one folder.
SHARED = {"attachment", "distributed", "events", "notices", "optimizer_step", "rewrapping", "step_tracking"}
SHARED |= {"parameters.groups", "parameters.selection", "parameters.shards"}
MODULES = sorted(path for path in (ROOT / "ignite_tips").rglob("*.py") if path.name != "__init__.py")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "ignite_tips").with_suffix("").parts)


def _layer(name: str) -> int:
    if name.startswith("handlers."):
        return 3
    return 0 if name in LAYER_0 else 2 if name in LAYER_2 else 1


def _may_import(name: str, other: str) -> bool:
    if _layer(name) != _layer(other):
        return _layer(name) > _layer(other)
    of_one_folder = "." in name and name.split(".")[0] == other.split(".")[0] != "handlers"
    return of_one_folder or other in SHARED


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, by its absolute name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_arrows_only_go_down(path: Path) -> None:
    """A file imports from lower layers, or from the shared files of its own; only L2 and above import Ignite."""
    name = _name(path)
    for imported in _imports(path):
        assert not imported.startswith("."), f"{name} imports relatively"
        assert not imported.startswith(("ignite_launch", "launch"))
        if imported.split(".")[0] == "ignite":
            assert _layer(name) >= 2, f"{name} of layer {_layer(name)} imports {imported}"
        if imported.startswith("ignite_tips."):
            other = imported.removeprefix("ignite_tips.")
            assert _may_import(name, other), f"{name} of layer {_layer(name)} imports {other} of layer {_layer(other)}"


def test_only_one_file_touches_optimizer_hooks() -> None:
    """register_step_pre_hook and its twin stand in optimizer_step.py alone."""
    touching = {_name(path) for path in MODULES if "register_step_" in path.read_text()}
    assert touching == {"optimizer_step"}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").rglob("*.py")), ids=lambda path: path.stem)
def test_the_launcher_stands_alone(path: Path) -> None:
    """launch/ imports itself, the standard library, NVML's bindings and torch; never ignite_tips."""
    allowed = sys.stdlib_module_names | {"pynvml", "torch"}
    for imported in _imports(path):
        assert imported.startswith(".") or imported.split(".")[0] in allowed, imported


def test_public_names_are_sorted_and_exist() -> None:
    """__all__ of the package is sorted, without doubles, and each name of it is there."""
    assert ignite_tips.__all__ == sorted(set(ignite_tips.__all__))
    assert all(hasattr(ignite_tips, public) for public in ignite_tips.__all__)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_names_what_it_offers(path: Path) -> None:
    """__all__ of a module is sorted and holds every public definition, and nothing that is not there."""
    module = importlib.import_module(f"ignite_tips.{_name(path)}")
    defined = {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    offered = getattr(module, "__all__", [])
    assert offered == sorted(offered)
    assert defined <= set(offered) or path.stem == "_version"
    assert all(hasattr(module, public) for public in offered)
