"""The sdist and the wheel that `make dist` built: their contents, and that the wheel works when installed alone."""

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from ignite_launch.templates import TEMPLATES

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "docs", "examples", "ignite_tips", "launch", "tests", "tools")


def _built(pattern: str) -> Path:
    found = list((ROOT / "dist").glob(pattern))
    packed = (ROOT / name for folder in FOLDERS for name in _files(folder))
    if not found or found[0].stat().st_mtime < max(path.stat().st_mtime for path in packed):
        pytest.skip("dist/ is missing or older than what it holds; `make dist` builds it")
    (built,) = found
    return built


@pytest.fixture(scope="module")
def sdist() -> Path:
    return _built("*.tar.gz")


@pytest.fixture(scope="module")
def wheel() -> Path:
    return _built("*.whl")


def _files(folder: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path.relative_to(ROOT)) for path in found}


def test_the_sdist_is_complete(sdist: Path) -> None:
    """It has tests, docs, examples and all else that a packager or a developer needs."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in FOLDERS:
        assert _files(folder) - names == set()
    assert {"CHANGELOG.md", "LICENSE", "Makefile", "README.zh-CN.md", "conftest.py", "constraints.txt"} <= names


def test_the_wheel_has_both_packages_and_nothing_else(wheel: Path) -> None:
    """It has every file of the two packages, templates and py.typed too, but no tests and no examples."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    launch = {name.replace("launch/", "ignite_launch/", 1) for name in _files("launch")}
    assert names == _files("ignite_tips") | launch
    assert {f"ignite_launch/{file}" for file in TEMPLATES.values()} <= names


def test_the_metadata_are_what_a_user_sees(wheel: Path) -> None:
    """The author, keywords and the extras that users need; developers' tools are no extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert "\nAuthor: ignite-tips contributors\n" in metadata
    assert "\nKeywords: pytorch," in metadata
    assert re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE) == ["plot", "examples"]


def test_the_wheel_works_installed_alone(wheel: Path, tmp_path: Path) -> None:
    """In a new environment the library imports, and the command trains a script in two processes."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=60)
    # Dependencies come from this environment, because installing them takes minutes; our own packages do not.
    ours = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (site / "dependencies.pth").write_text(f"{ours}\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import ignite_launch, ignite_tips, torch\n"
        "with ignite_tips.process_group() as strategy:\n"
        "    model = ignite_tips.wrap_model(torch.nn.Linear(2, 2))\n"
        "    print(strategy.name, type(model).__name__, ignite_tips.__file__, ignite_launch.__file__)\n"
    )
    command = [str(tmp_path / "venv" / "bin" / "ignite-launch"), "--nproc", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("DistributedDataParallel") == 2, done.stdout  # the ranks' output may be interleaved
    assert done.stdout.count(str(site)) == 4
