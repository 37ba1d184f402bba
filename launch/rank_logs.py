"""Where the workers' output goes: the console, or with ``--log-dir`` a file per rank.

Rank 0's output and a failing rank's traceback go to the console in both cases.
"""

import contextlib
import os
import select
import selectors
import stat
import threading
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

from .errors import UsageError, log

__all__ = ["ConsoleLogs", "RankLogs"]

_STDOUT, _STDERR = 1, 2
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 30
_TIMEOUT = 5.0


class _Stream:
    """One worker's output: passed on to the console at once, and to the file by whole lines."""

    def __init__(self, file: int, path: Path, console: int | None) -> None:
        self.console = console
        self.tail = b""
        self._file: int | None = file
        self._path = path
        self._line: list[bytes] = []  # the parts of a line that has not ended yet

    def write(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        if self.console is not None:
            try:
                _write_all(self.console, data)
            except OSError:  # the console is gone
                self.console = None
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end:
            self._line.append(data[:end])
            self.flush()
        self._line.append(data[end:])

    def flush(self) -> None:
        if self._file is not None:
            try:
                _write_all(self._file, b"".join(self._line))
            except OSError as error:  # a full disk must not stop a worker
                log(f"--log-dir: cannot write {self._path}: {error.strerror}; this rank's further output is not logged")
                self._file = None
        self._line.clear()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # a pipe that its reader made non-blocking
            select.select([], [descriptor], [])


class ConsoleLogs(LogsSpecs):
    """Tells torch's agent to leave the workers' output to the console.

    torch's own class would start two threads for each worker, which read /dev/null.
    """

    @property
    def root_log_dir(self) -> str:
        """No folder."""
        return os.devnull

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return where the output of each start goes, given the workers' environments by local rank."""
        for environment in envs.values():
            environment["TORCHELASTIC_ERROR_FILE"] = ""
        console = dict.fromkeys(envs, "")
        return LogsDest(stdouts=dict(console), stderrs=dict(console), error_files=dict(console))


class RankLogs(ConsoleLogs):
    """Tells torch's agent where to send the workers' output: into pipes that a thread of the launcher reads.

    ``FOLDER/rank_R.log`` has the lines of rank R's stdout and stderr in the order in which they came. Rank 0 has two
    pipes, to keep stdout and stderr apart on the console. A header line marks each start; existing files are
    appended to.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, _Stream] = {}  # of stderr, or of both
        self._descriptors: list[int] = []  # files and write ends of pipes
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def root_log_dir(self) -> str:
        """The folder, for torch's agent."""
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Open files and pipes for a start of the workers, given their environments by local rank."""
        self.finish()
        destinations = super().reify(envs)
        for local_rank, environment in envs.items():
            path = self._folder / f"rank_{environment['RANK']}.log"
            file = self._open(path, environment)
            if environment["RANK"] == "0":
                _stdout, out = self._pipe(_Stream(file, path, _STDOUT))
                stream, err = self._pipe(_Stream(file, path, _STDERR))
            else:
                stream, out = self._pipe(_Stream(file, path, None))
                err = out
            destinations.stdouts[local_rank], destinations.stderrs[local_rank] = out, err
            self._streams[local_rank] = stream
        self._finished.clear()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()
        return destinations

    def _open(self, path: Path, environment: dict[str, str]) -> int:
        rank, start = environment["RANK"], environment["TORCHELASTIC_RESTART_COUNT"]
        try:
            # Not through a link that another user may have put there, and without waiting for a FIFO's reader.
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
        except OSError as error:
            raise UsageError(f"--log-dir {self._folder}: cannot write {path.name}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UsageError(f"--log-dir {self._folder}: {path.name} must be a regular file")
        with contextlib.suppress(OSError):  # a full disk, of which the first output tells
            os.write(file, f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} rank {rank}, restart {start}\n".encode())
        self._descriptors.append(file)
        return file

    def _pipe(self, stream: _Stream) -> tuple[_Stream, str]:
        """Return a stream, and the path at which torch opens its pipe."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self._selector.register(read_end, selectors.EVENT_READ, stream)
        self._descriptors.append(write_end)
        return stream, f"/dev/fd/{write_end}"

    def _pump(self) -> None:
        while True:
            ready = self._selector.select(timeout=0.1)
            for key, _events in ready:
                with contextlib.suppress(BlockingIOError):
                    key.data.write(os.read(key.fd, _TAIL_BYTES))
            if not ready and self._finished.is_set():
                return

    def finish(self) -> None:
        """Write what is still in the pipes of workers that have exited, and close files and pipes."""
        if self._thread is None:
            return
        self._finished.set()
        self._thread.join(_TIMEOUT)
        if self._thread.is_alive():  # the console blocks, as after Ctrl-S; the thread still uses the descriptors
            return
        self._thread = None
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.data.flush()
            os.close(key.fd)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def log_tail(self, local_rank: int) -> str:
        """Return a worker's last traceback or, without one, its last lines on stderr; "" if the console showed them."""
        stream = self._streams[local_rank]
        if stream.console is not None:
            return ""
        text = stream.tail.decode(errors="replace").rstrip()
        start = text.rfind("Traceback (most recent call last):")
        return text[start:] if start >= 0 else "\n".join(text.splitlines()[-_TAIL_LINES:])
