"""Make README's links absolute, and name the project's address in setup.cfg, for a release.

python -m tools.absolute_links https://HOST/OWNER/NAME TAG

A package index shows README.md without the files around it. Only the place that publishes knows its own address, so the
release workflow calls this, in its own checkout.
"""

import re
import sys
from pathlib import Path

__all__ = ["absolute_links", "with_project_urls"]

_RELATIVE = re.compile(r"(?P<before>(?P<picture>!?)\[[^]]*\]\()(?!https?:|#)(?P<path>[^)]+)")


def absolute_links(text: str, url: str, tag: str) -> str:
    """Return the text with links to files of the repository at that tag; pictures are the files themselves."""

    def replace(match: re.Match[str]) -> str:
        return f"{match['before']}{url}/{'raw' if match['picture'] else 'blob'}/{tag}/{match['path']}"

    return _RELATIVE.sub(replace, text)


def with_project_urls(config: str, url: str, tag: str) -> str:
    """Return setup.cfg's text with the links that a package index shows beside the description."""
    links = {"Source": url, "Changelog": f"{url}/blob/{tag}/CHANGELOG.md", "Issues": f"{url}/issues"}
    lines = "".join(f"    {name} = {link}\n" for name, link in links.items())
    return config.replace("[metadata]\n", f"[metadata]\nproject_urls =\n{lines}", 1)


def main(url: str, tag: str) -> None:
    """Rewrite README.md and setup.cfg of the working folder."""
    for path, change in ((Path("README.md"), absolute_links), (Path("setup.cfg"), with_project_urls)):
        path.write_text(change(path.read_text(), url, tag))


if __name__ == "__main__":
    main(*sys.argv[1:])
