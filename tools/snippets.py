"""Write the Python blocks of README and docs into a folder, for type checkers: a file for each page or whole script.

python -m tools.snippets FOLDER
"""

import re
import sys
from pathlib import Path

from tests.e2e.pages import Block, blocks

ROOT = Path(__file__).resolve().parents[1]
# Ignite's State has the attributes that events add, which no type checker knows.
_ADDED_TO_STATE = re.compile(r"\.state\.optimizer_steps?\b.*")


def write_snippets(folder: Path) -> None:
    """Write what the tests run as one script: README's blocks, whole scripts, halves of pairs, and the rest of a page.

    A line has the number that it has in its page. Translations have the same code, so they are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.py"):
        path.unlink()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if "zh" not in page.parts:
            name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
            for number, file in enumerate(_files(page)):
                (folder / f"{name}_{number}.py").write_text(_text(file))


def _files(page: Path) -> list[list[Block]]:
    code = [block for block in blocks(page) if block.language == "python"]
    if page.parent == ROOT:
        return [[block] for block in code]
    scripts = [[block] for block in code if block.title.endswith(".py")]
    halves = [[code[0], block] for block in code if block.grid]
    together = [block for block in code if not block.title.endswith(".py") and not block.grid]
    return scripts + halves + [together] * bool(together)


def _text(file: list[Block]) -> str:
    text = ""
    for block in file:
        text += "\n" * (block.line - text.count("\n")) + block.text
    return _ADDED_TO_STATE.sub(r"\g<0>  # type: ignore[attr-defined]", text)


if __name__ == "__main__":
    write_snippets(Path(sys.argv[1]))
