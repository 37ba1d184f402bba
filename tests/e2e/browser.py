"""A real TensorBoard server in a real headless Chromium, driven over WebDriver's own protocol."""

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# TensorBoard's pages consist of shadow roots, which ordinary selectors do not search.
_ALL_ELEMENTS = """
const all = root => [...root.querySelectorAll('*')].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
const elements = all(document);
"""
_TEXT = (
    _ALL_ELEMENTS
    + """
const nodes = root => [...root.childNodes].flatMap(n =>
    n.nodeType === 3 ? [n.textContent.trim()] : ['SCRIPT', 'STYLE', 'TEMPLATE'].includes(n.nodeName) ? [] :
    [...(n.shadowRoot ? nodes(n.shadowRoot) : []), ...nodes(n)]);
return nodes(document.body).filter(Boolean).join('\\n');
"""
)


def find_chromium() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver, or None if one of them is not installed."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on a free port; yield the server's address."""
    # The page shows this folder's name.
    arguments = ["--logdir", folder.name, "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tensorboard.main", *arguments],
        cwd=folder.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _read_address(server, r"(http://127\.0\.0\.1:\d+)/", server.stderr)
    finally:
        server.kill()
        server.communicate()


@contextmanager
def chromium(size: tuple[int, int] = (1280, 900)) -> Iterator["Browser"]:
    """Start a separate headless Chromium."""
    found = find_chromium()
    assert found is not None
    executable, driver_path = found
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen([driver_path, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            port = _read_address(driver, r"started successfully on port (\d+)", driver.stdout)
            browser = Browser(f"http://127.0.0.1:{port}", executable, profile, size)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.kill()
            driver.communicate()


def _read_address(process: subprocess.Popen[str], pattern: str, stream: Any) -> str:
    lines = []
    for line in stream:  # ends with the process
        lines.append(line)
        if found := re.search(pattern, line):
            return found[1]
    raise RuntimeError(f"{process.args} ended: {''.join(lines)}")


class Browser:
    """One window of a browser."""

    def __init__(self, server: str, executable: str, profile: str, size: tuple[int, int]) -> None:
        self._server = server
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            "--force-device-scale-factor=1",
        ]
        options = {"binary": executable, "args": arguments}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._session = self._call("POST", "/session", {"capabilities": capabilities})["sessionId"]

    def close(self) -> None:
        """Close the browser."""
        self._call("DELETE", f"/session/{self._session}")

    def open(self, address: str) -> None:
        """Load a page; reload it if only the part after # differs."""
        self._call("POST", f"/session/{self._session}/url", {"url": "about:blank"})
        self._call("POST", f"/session/{self._session}/url", {"url": address})

    def run(self, script: str) -> Any:
        """Run JavaScript; ``elements`` are all elements of the page, shadow roots included."""
        body = {"script": _ALL_ELEMENTS + script, "args": []}
        return self._call("POST", f"/session/{self._session}/execute/sync", body)

    def text(self) -> str:
        """Return all text of the page."""
        body = {"script": _TEXT, "args": []}
        return str(self._call("POST", f"/session/{self._session}/execute/sync", body))

    def wait_for(self, what: Callable[["Browser"], Any], *, seconds: float = 60.0) -> Any:
        """Return the first true value of ``what(self)``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := what(self):
                return value
            time.sleep(0.2)
        raise TimeoutError(f"not seen within {seconds} s; the page reads:\n{self.text()}")

    def set_size(self, width: int, height: int) -> None:
        """Make the visible part of the page this large."""
        across, down = self.run("return [outerWidth - innerWidth, outerHeight - innerHeight]")
        size = {"width": width + across, "height": height + down}
        self._call("POST", f"/session/{self._session}/window/rect", size)

    def screenshot(self, path: Path) -> None:
        """Save a screenshot as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", f"/session/{self._session}/screenshot")))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
