"""Print setup.cfg's lower bounds as pip constraints, and constraints.txt's versions of packages only the tests need."""

import re
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Newer pyparsing warns about how matplotlib 3.8 calls it; newer setuptools lacks what tensorboard 2.18 imports.
_OLDER = {"pyparsing": "<3.3", "setuptools": "<82"}


def main() -> None:
    """Print one constraint per line."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    oldest = config["options"]["python_requires"].removeprefix(">=")
    if oldest != "{}.{}".format(*sys.version_info):
        sys.exit(f"this needs Python {oldest}, the oldest that setup.cfg admits: make test-lowest PYTHON=...")
    extras = config["options.extras_require"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    lowest = [*config["options"]["install_requires"].split(), *extras["plot"].split()]
    for requirement in lowest:
        print(requirement.replace(">=", "=="))
    for name, versions in _OLDER.items():
        print(name + versions)
    pins = (ROOT / "constraints.txt").read_text().replace("_", "-")  # pip freeze writes some names with underscores
    pinned = dict(line.split("==") for line in pins.split() if "==" in line)
    for requirement in [*extras["examples"].split(), *groups["dev"]]:
        name = re.split("[>=]", requirement)[0]
        if requirement not in lowest and name not in _OLDER:
            print(f"{name}=={pinned[name]}")


if __name__ == "__main__":
    main()
