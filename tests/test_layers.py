"""The layout: which folder may import which, and what is public."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

import ignite_tips

ROOT = Path(__file__).parents[1]
# What each folder, or file beside the folders, may import from the package: lower ones, and no other feature.
CORE = {"_checks", "_figures", "_tables", "_warnings", "core", "distributed", "parameters", "ranks"}
MAY_IMPORT: dict[str, set[str]] = {
    "_checks": set(),
    "_figures": set(),
    "_tables": set(),
    "_version": set(),
    "_warnings": set(),
    "distributed": {"_checks"},
    "ranks": {"_checks"},
    "core": {"_checks", "_tables", "_warnings"},
    "parameters": {"_checks", "_tables", "_warnings"},
    "clipping": CORE,
    "schedules": CORE,
    "freezing": CORE,
    "tensorboard": CORE,
    "summary": {*CORE, "tensorboard"},  # the one feature that imports another: it writes text through it
    "report": CORE,  # what the features know comes to it through the roles
    "plot": {"tensorboard"},  # python -m ignite_tips.plot
}
WITHOUT_IGNITE = {"_checks", "_figures", "_tables", "_version", "_warnings", "parameters", "ranks"}
MODULES = sorted(path for path in (ROOT / "ignite_tips").rglob("*.py") if path.name != "__init__.py")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "ignite_tips").with_suffix("").parts)


def _folder(name: str) -> str:
    return name.split(".")[0]


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, by absolute name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_down(path: Path) -> None:
    """A file imports its own folder and those its folder may import; the lowest do not import Ignite."""
    folder = _folder(_name(path))
    for imported in _imports(path):
        assert not imported.startswith("."), f"{path} imports relatively"
        assert not imported.startswith(("ignite_launch", "launch"))
        assert imported.split(".")[0] != "ignite" or folder not in WITHOUT_IGNITE, f"{path} imports {imported}"
        if imported.startswith("ignite_tips."):
            other = _folder(imported.removeprefix("ignite_tips."))
            assert other in {folder, *MAY_IMPORT[folder]}, f"{path} imports {imported}"


def test_only_the_core_touches_optimizer_hooks() -> None:
    """Only core/ uses register_step_pre_hook and register_step_post_hook."""
    assert {_folder(_name(path)) for path in MODULES if "register_step_" in path.read_text()} == {"core"}


def test_tests_have_the_folders_of_the_package() -> None:
    """Each folder of ignite_tips has a folder of the same name in the tests."""
    folders = {path.parent.name for path in (ROOT / "ignite_tips").glob("*/__init__.py")}
    assert folders == {path.parent.name for path in (ROOT / "tests/ignite_tips").glob("*/__init__.py")}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").rglob("*.py")), ids=lambda path: path.stem)
def test_the_launcher_is_independent(path: Path) -> None:
    """launch/ imports itself, the standard library, NVML's bindings and torch; never ignite_tips."""
    allowed = sys.stdlib_module_names | {"pynvml", "torch"}
    for imported in _imports(path):
        assert imported.startswith(".") or imported.split(".")[0] in allowed, imported


def _texts(path: Path) -> list[str]:
    """Return the strings of a Python file without docstrings, which are for developers, or the text of another file."""
    if path.suffix != ".py":
        return [path.read_text()]
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("folder", ["ignite_tips", "launch"])
def test_messages_name_no_file_that_only_a_checkout_has(folder: str) -> None:
    """An installed package has no documentation, examples or tests, so no message or template refers to one."""
    named = [
        (path.name, word)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
        for text in _texts(path)
        for word in re.findall(r"[\w./-]*\w", text)
        if "." in word and (ROOT / word).is_file()
    ]
    assert named == []


def test_public_names_are_sorted_and_exist() -> None:
    """__all__ of the package is sorted, without duplicates, and every name exists."""
    assert ignite_tips.__all__ == sorted(set(ignite_tips.__all__))
    assert all(hasattr(ignite_tips, public) for public in ignite_tips.__all__)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_lists_its_public_names(path: Path) -> None:
    """__all__ of a module is sorted, has every public definition, and every name exists."""
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


def test_a_notebook_completes_public_names_only() -> None:
    """``dir(ignite_tips)`` has neither the folders nor what the module imports for itself."""
    assert dir(ignite_tips) == ignite_tips.__all__
