"""Write README's Python blocks into a folder, a file each, for type checkers.

python -m tools.snippets FOLDER
"""

import sys
from pathlib import Path

from tests.e2e.pages import scripts

ROOT = Path(__file__).resolve().parents[1]


def write_snippets(folder: Path) -> None:
    """Write each block of README.md to ``readme_N.py``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (block, _) in enumerate(scripts(ROOT / "README.md")):
        (folder / f"readme_{index}.py").write_text(block.text)


if __name__ == "__main__":
    write_snippets(Path(sys.argv[1]))
