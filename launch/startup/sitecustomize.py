"""Start-up code of each worker's Python: it dies with the launcher, and an error that ends it is reported in a line.

Python imports the first module of this name before it runs a script. The launcher puts this folder in front of
PYTHONPATH, and this file takes it away again: neither the script nor its children see it. The machine's own
sitecustomize is imported as well. An excepthook that the script sets replaces this one.

Each import here costs every worker time.
"""

import ctypes
import importlib
import os
import sys
from types import TracebackType

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_RANK = os.environ["RANK"]
_LAUNCHER = int(os.environ.pop("IGNITE_LAUNCH_PID"))
_ERROR_FILE = os.environ.pop("IGNITE_LAUNCH_ERROR_FILE", "")
_MOST_PLACES = 3


def _die_with_the_launcher() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != _LAUNCHER:  # it died before
        os.kill(os.getpid(), _SIGKILL)


def _hide_this_folder() -> None:
    sys.path.remove(os.path.dirname(__file__))
    _, is_inherited, inherited = os.environ.pop("PYTHONPATH").partition(os.pathsep)
    if is_inherited:
        os.environ["PYTHONPATH"] = inherited


def _import_the_machines_own() -> None:
    """Import the sitecustomize that this one hides; without one, ``site`` expects this error."""
    del sys.modules[__name__]
    importlib.import_module(__name__)


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        # Not sys.stderr: a process group has torch put "[rank0]: " before what an excepthook writes there.
        print(f"rank {_RANK}: KeyboardInterrupt at {_places(trace)}", file=sys.__stderr__, flush=True)
    else:
        _previous(kind, error, trace)
        _write_error(error)


def _places(trace: TracebackType | None) -> str:
    """Return the last files and lines of the user's own code, the innermost last; without any, the last of all."""
    import site
    import sysconfig
    import traceback

    frames = traceback.extract_tb(trace)
    installed = (sysconfig.get_path("stdlib"), site.getusersitepackages(), *site.getsitepackages())
    # Frozen modules, generated code and what Cython compiled have no file here.
    own = [frame for frame in frames if not frame.filename.startswith(installed) and os.path.isfile(frame.filename)]
    shown = own[-_MOST_PLACES:] or frames[-1:]
    return " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in shown)


def _write_error(error: BaseException) -> None:
    """Tell the launcher the line of the traceback that names the exception."""
    import contextlib
    import traceback

    lines = "".join(traceback.format_exception_only(error)).splitlines()
    line = next(line for line in lines if not line.startswith(" "))  # a SyntaxError shows the code first
    with contextlib.suppress(OSError), open(_ERROR_FILE, "a", encoding="utf-8", errors="replace") as file:
        file.write(f"{_RANK} {line}\n")


_die_with_the_launcher()
_hide_this_folder()
try:
    _import_the_machines_own()
finally:
    _previous = sys.excepthook
    sys.excepthook = _excepthook
