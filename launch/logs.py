"""``--log-dir``: each rank's output in a file of its own, rank 0's on the console too, and a failure's always."""

import contextlib
import os
import selectors
import threading
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

from .errors import UsageError

__all__ = ["RankLogs"]

_STDOUT, _STDERR = 1, 2
_KEPT = 64 * 1024
_SHOWN_LINES = 30
_PATIENCE = 5.0


class _Stream:
    """One worker's output on its way through the launcher: at once to the console, by whole lines to the file."""

    def __init__(self, file: int, console: int | None) -> None:
        self.console = console
        self.kept = b""
        self._file: int | None = file
        self._line = b""

    def write(self, data: bytes) -> None:
        self.kept = (self.kept + data)[-_KEPT:]
        self.console = _write_all(self.console, data)
        lines = self._line + data
        end = max(lines.rfind(b"\n"), lines.rfind(b"\r")) + 1
        self._file, self._line = _write_all(self._file, lines[:end]), lines[end:]

    def flush(self) -> None:
        self._file = _write_all(self._file, self._line)


def _write_all(descriptor: int | None, data: bytes) -> int | None:
    """Write to the descriptor and return it, or None once it takes no more: a full disk must not stop a worker."""
    try:
        while data and descriptor is not None:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return None
    return descriptor


class RankLogs(LogsSpecs):
    """Where torch's engine sends the workers' output: into pipes, which a thread of the launcher empties.

    ``FOLDER/rank_R.log`` holds stdout and stderr of rank R, line by line as they came; those of rank 0 come through two
    pipes, so that they stay apart on the console. Files are only ever added to; a line marks each start.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, _Stream] = {}  # stderr, or both
        self._own: list[int] = []  # files and pipes' write ends
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def root_log_dir(self) -> str:
        """The folder, as torch's engine reports it."""
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Open files and pipes for a start of the workers whose environments these are, by local rank."""
        self.finish()
        destinations = LogsDest(error_files=dict.fromkeys(envs, ""))
        for local_rank, environment in envs.items():
            environment["TORCHELASTIC_ERROR_FILE"] = ""
            file = self._open(environment)
            if environment["RANK"] == "0":
                _stdout, out = self._pipe(file, _STDOUT)
                stream, err = self._pipe(file, _STDERR)
            else:
                stream, out = self._pipe(file, None)
                err = out
            destinations.stdouts[local_rank], destinations.stderrs[local_rank] = out, err
            self._streams[local_rank] = stream
        self._finished.clear()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()
        return destinations

    def _open(self, environment: dict[str, str]) -> int:
        rank, start = environment["RANK"], environment["TORCHELASTIC_RESTART_COUNT"]
        path = self._folder / f"rank_{rank}.log"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UsageError(f"--log-dir {self._folder}: {path.name} cannot be written: {error.strerror}") from error
        os.write(file, f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} rank {rank}, restart {start}\n".encode())
        self._own.append(file)
        return file

    def _pipe(self, file: int, console: int | None) -> tuple[_Stream, str]:
        """Return a stream and the path under which torch opens its pipe."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        stream = _Stream(file, console)
        self._selector.register(read_end, selectors.EVENT_READ, stream)
        self._own.append(write_end)
        return stream, f"/dev/fd/{write_end}"

    def _pump(self) -> None:
        while True:
            ready = self._selector.select(timeout=0.1)
            for key, _events in ready:
                with contextlib.suppress(BlockingIOError):
                    key.data.write(os.read(key.fd, _KEPT))
            if not ready and self._finished.is_set():
                return

    def finish(self) -> None:
        """Write out what is still in the pipes of workers that have ended, and close files and pipes."""
        if self._thread is None:
            return
        self._finished.set()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():  # the console takes nothing, as after Ctrl-S: its descriptors stay the thread's
            return
        self._thread = None
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.data.flush()
            os.close(key.fd)
        for descriptor in self._own:
            os.close(descriptor)
        self._own.clear()

    def last_words(self, local_rank: int) -> str:
        """Return a worker's last traceback or, without one, its last lines on stderr; "" if the console had them."""
        stream = self._streams[local_rank]
        if stream.console is not None:
            return ""
        text = stream.kept.decode(errors="replace").rstrip()
        start = text.rfind("Traceback (most recent call last):")
        return text[start:] if start >= 0 else "\n".join(text.splitlines()[-_SHOWN_LINES:])
