"""The wheel: its contents, and that it works when installed alone."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from ignite_launch.templates import TEMPLATES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as by a user."""
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves files behind, and the next build would pack those of deleted modules.
    source = shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs")
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=100, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_both_packages_and_nothing_else(wheel: Path) -> None:
    """It has every module and py.typed of the two packages, and the templates, but no tests and no examples."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {f"ignite_tips/{path.relative_to(ROOT / 'ignite_tips')}" for path in (ROOT / "ignite_tips").rglob("*.py")}
    theirs = {f"ignite_launch/{path.relative_to(ROOT / 'launch')}" for path in (ROOT / "launch").rglob("*.py")}
    typed = {"ignite_tips/py.typed", "ignite_launch/py.typed"}
    templates = {f"ignite_launch/{file}" for file in TEMPLATES.values()}
    assert ours | theirs | typed | templates <= names
    assert {name.split("/")[0] for name in names} == {"ignite_tips", "ignite_launch"}


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
