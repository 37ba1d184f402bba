"""The site's pages: their code blocks, and a process that runs those of a page as shown."""

import contextlib
import io
import linecache
import multiprocessing
import os
import re
import runpy
import socket
import textwrap
import traceback
import warnings
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tests.support  # has the fork server import torch and Ignite  # noqa: F401
from tests.settings import threads

_CONTEXT = multiprocessing.get_context("forkserver")
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*) *(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_GRID = re.compile(r'^<div class="grid(?P<kind>[^"]*)" markdown>\n.*?^</div>\n</div>$', re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block. Python named like a file is a whole script for two processes; the next block may be its output.

    Attributes:
        text: the text between the fences, without the indentation of a list or a note around it.
        line: the number of the page's line before its first line.
        grid: the number of the grid that shows it beside another block; 0 outside a grid.
        is_mistake: whether the first block of its grid is an example of what is wrong.
    """

    language: str
    title: str
    text: str
    line: int
    grid: int = 0
    is_mistake: bool = False

    @property
    def is_script(self) -> bool:
        """Whether it is a whole script for two processes."""
        return self.title.endswith(".py")


@dataclass(frozen=True)
class Run:
    """The result of one process: the output of each block, and the traceback of a failed one."""

    outputs: list[str]
    error: str


def blocks(page: Path) -> list[Block]:
    """Return the page's fenced blocks in order."""
    text = page.read_text()
    grids = list(enumerate(_GRID.finditer(text), start=1))
    found = []
    for match in _FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["options"])
        line = text.count("\n", 0, match.start("text"))
        number, kind = next(
            ((number, grid["kind"]) for number, grid in grids if grid.start() < match.start() < grid.end()), (0, "")
        )
        code = textwrap.dedent(match["text"])
        found.append(Block(match["language"], title[1] if title else "", code, line, number, kind == " mistake"))
    return found


def scripts(page: Path) -> list[tuple[Block, Block | None]]:
    """Return the page's Python blocks, each with the block that shows its output, if any."""
    listed = blocks(page)
    return [
        (block, after if after is not None and after.language == "text" else None)
        for block, after in zip_longest(listed, listed[1:])
        if block.language == "python"
    ]


def run_in_one_process(page: Path, code: list[Block], folder: Path) -> Run:
    """Run blocks in order, in one new process and one namespace, with ``folder`` as its working folder.

    Blocks of a grid each start from the page's first block, and must leave the same ``model``, unless one is a mistake.
    """
    return _run(_run_blocks, page, code, folder, [{}])[0]


def run_in_two_processes(script: Block, folder: Path) -> list[Run]:
    """Run a whole script in two processes, with the variables that a launcher sets."""
    path = folder / script.title
    path.write_text(script.text)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return _run(_run_script, path, [script], folder, [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"])


def _run(target: Any, path: Path, code: list[Block], folder: Path, environments: Any) -> list[Run]:
    ends, processes = [], []
    for environment in environments:
        end, other_end = _CONTEXT.Pipe(duplex=False)
        processes.append(_CONTEXT.Process(target=_work, args=(target, path, code, folder, environment, other_end)))
        processes[-1].start()
        other_end.close()
        ends.append(end)
    try:
        return [_receive(end) for end in ends]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _receive(end: Any) -> Run:
    if not end.poll(60):
        return Run([], "it did not end within 60 s")
    try:
        return end.recv()
    except EOFError:
        return Run([], "it died")


def _work(target: Any, path: Path, code: list[Block], folder: Path, environment: dict[str, str], end: Any) -> None:
    os.chdir(folder)
    os.environ.update(environment, COLUMNS="120")  # tables use the terminal's width
    torch.set_num_threads(threads())
    warnings.simplefilter("error")
    # torch's own, when Ignite imports its checkpoints
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    outputs: list[str] = []
    error = ""
    try:
        target(path, code, outputs)
    except BaseException:
        error = traceback.format_exc()
    end.send(Run(outputs, error))


def _run_blocks(page: Path, code: list[Block], outputs: list[str]) -> None:
    if not torch.cuda.is_available():  # code for GPUs then runs on the CPU
        nn.Module.cuda = torch.Tensor.cuda = lambda self, *_: self
    namespace: dict[str, Any] = {"__name__": "__main__"}
    linecache.getlines(str(page))
    weights: dict[int, dict[str, torch.Tensor]] = {}
    for block in code:
        if block.grid:
            _execute(page, code[0], namespace)
        with _printed(outputs), warnings.catch_warnings():
            if block.is_mistake and block.grid not in weights:
                warnings.simplefilter("ignore")
            _execute(page, block, namespace)
        if block.grid:
            state = namespace["model"].state_dict()
            other = weights.setdefault(block.grid, state)
            if other is not state:
                same = all(torch.equal(value, state[name]) for name, value in other.items())
                assert same != block.is_mistake, f"line {block.line}: the same weights: {same}"


def _execute(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    # Empty lines before it, so a traceback has the page's line numbers.
    exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


def _run_script(path: Path, code: list[Block], outputs: list[str]) -> None:
    with _printed(outputs):
        runpy.run_path(str(path), run_name="__main__")


@contextlib.contextmanager
def _printed(outputs: list[str]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    outputs.append(printed.getvalue())
