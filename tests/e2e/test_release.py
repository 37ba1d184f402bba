"""What a release needs beside the code: links for a package index, workflows and a citation that fit the project."""

import re
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from ignite_tips import __version__
from tools import lowest
from tools.absolute_links import absolute_links, with_project_urls

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
URL = "https://example.org/someone/ignite-tips"


def test_every_link_of_readme_is_absolute_on_a_package_index() -> None:
    """Pictures lead to the files themselves, links to their pages, and each file exists."""
    text = absolute_links((ROOT / "README.md").read_text(), URL, "v1.0")
    links = re.findall(r"(!?)\[[^]]*\]\(([^)#]+)", text)
    assert [link for _, link in links if not link.startswith("https://")] == []
    ours = [(picture, link) for picture, link in links if link.startswith(URL)]
    assert len([link for picture, link in ours if picture]) >= 3
    for picture, link in ours:
        start = f"{URL}/{'raw' if picture else 'blob'}/v1.0/"
        assert link.startswith(start)
        assert (ROOT / link.removeprefix(start)).is_file()


def test_the_projects_address_is_in_the_metadata_of_a_release() -> None:
    """Setup.cfg stays readable and keeps what it had."""
    config = ConfigParser()
    config.read_string(with_project_urls((ROOT / "setup.cfg").read_text(), URL, "v1.0"))
    assert f"Source = {URL}\n" in config["metadata"]["project_urls"]
    assert config["metadata"]["name"] == "ignite-tips"


def test_the_citation_has_the_version() -> None:
    """CITATION.cff names the version of the package."""
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="make test-lowest runs on the oldest Python")
def test_the_lowest_versions_are_those_of_setup_cfg(capsys: pytest.CaptureFixture[str]) -> None:
    """`make test-lowest` installs setup.cfg's lower bounds, and a pinned version of all that the tests need."""
    lowest.main()
    printed = set(capsys.readouterr().out.split())
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert {line.replace(">=", "==") for line in config["options"]["install_requires"].split()} <= printed
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    assert {re.split("[>=]", line)[0] for line in group} <= {re.split("[<=]", line)[0] for line in printed}


@pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")
def test_workflows_call_what_exists() -> None:
    """Each make target and tool that a workflow calls is there, and all Python versions of setup.cfg are tested."""
    text = "".join(path.read_text() for path in WORKFLOWS)
    targets = {name for line in re.findall(r"run: make (.+)", text) for name in line.split()}
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert re.findall(r"python -m tools\.(\w+)", text) == ["absolute_links"]
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.+)\]", text)[1])
    assert tested == re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())
