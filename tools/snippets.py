"""Write the Python blocks of README and docs into a folder, for type checkers: a file for each page or whole script.

python -m tools.snippets FOLDER
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.e2e.pages import Block, blocks

ROOT = Path(__file__).resolve().parents[1]
# Ignite's State has the attributes that events add, which no type checker knows.
_ADDED_TO_STATE = re.compile(r"\.state\.optimizer_steps?\b.*")


def write_snippets(folder: Path) -> None:
    """Write each block of README, each page of docs without its whole scripts, and each of those.

    A line has the number that it has in its page. Left out are translations, which have the same code, pages of pairs,
    because code in blog posts has no types, and pages that import what is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.py"):
        path.unlink()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        code = [block for block in blocks(page) if block.language == "python"]
        has_types = _can_import(code) and not any(block.grid for block in code)
        if has_types and "zh" not in page.parts:
            name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
            for number, file in enumerate(_files(page, code)):
                (folder / f"{name}_{number}.py").write_text(_text(file))


def _can_import(code: list[Block]) -> bool:
    packages = {name for block in code for name in re.findall(r"^(?:from|import) (\w+)", block.text, re.MULTILINE)}
    return all(find_spec(name) for name in packages)


def _files(page: Path, code: list[Block]) -> list[list[Block]]:
    together = [block for block in code if not block.is_script and page.parent != ROOT]
    return [[block] for block in code if block not in together] + [together] * bool(together)


def _text(file: list[Block]) -> str:
    text = ""
    for block in file:
        text += "\n" * (block.line - text.count("\n")) + block.text
    return _ADDED_TO_STATE.sub(r"\g<0>  # type: ignore[attr-defined]", text)


if __name__ == "__main__":
    write_snippets(Path(sys.argv[1]))
