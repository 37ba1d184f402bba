"""The house: who may import whom, and what is public."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import ignite_tips

ROOT = Path(__file__).parents[1]
# Each file of ignite_tips by its layer; a file may import from layers below its own.
LAYERS = {
    "_checks": 0,
    "_version": 0,
    "event_files": 1,
    "event_writing": 1,
    "gradients": 1,
    "group_options": 1,
    "late_norms": 1,
    "model_state": 1,
    "module_calls": 1,
    "norm_rules": 1,
    "optimizer_gradients": 1,
    "optimizer_step": 1,
    "param_groups": 1,
    "parameters": 1,
    "record_file": 1,
    "run_plot": 1,
    "run_reading": 1,
    "schedule_length": 1,
    "schedule_plot": 1,
    "scheduler_claims": 1,
    "scheduler_state": 1,
    "schedules": 1,
    "simulation": 1,
    "summary": 1,
    "summary_backends": 1,
    "summary_table": 1,
    "unit_norms": 1,
    "attachment": 2,
    "distributed": 2,
    "events": 2,
    "gradient_clipper": 2,
    "model_part": 2,
    "notices": 2,
    "plot": 2,
    "resumable_logger": 2,
    "rewrapping": 2,
    "scalar_sinks": 2,
    "schedule_fit": 2,
    "triggers": 2,
    "validation_metric": 2,
}
# Files that others of their own layer may import.
SHARED = {"attachment", "parameters", "param_groups", "optimizer_step", "events", "notices"}
SHARED |= {"distributed", "rewrapping"}  # what model_part.py and triggers.py stand on
SHARED |= {"model_state", "module_calls", "summary_backends", "summary_table"}  # what summary.py is made of
SHARED |= {"run_reading"}  # what run_plot.py draws
MODULES = sorted(path for path in (ROOT / "ignite_tips").rglob("*.py") if path.name != "__init__.py")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "ignite_tips").with_suffix("").parts)


def _layer(name: str) -> int:
    return 3 if name.startswith("handlers.") else LAYERS[name]


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
            allowed = _layer(other) < _layer(name) or (_layer(other) == _layer(name) and other in SHARED)
            assert allowed, f"{name} of layer {_layer(name)} imports {other} of layer {_layer(other)}"


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
