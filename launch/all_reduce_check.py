"""``--check``: an all-reduce between the processes of a launch, with its bandwidth, or what is wrong with it.

Run as a module by the launcher, in each worker.
"""

import os
import signal
import sys
import time
from datetime import timedelta

__all__ = ["main"]

_TIMEOUT = 20
_BYTES = 64 * 2**20
_ROUNDS = 5


def main() -> None:
    """Join the group and reduce; exit with 1 and a sentence if that fails or takes too long."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback
    signal.signal(signal.SIGALRM, lambda number, frame: _fail(f"no answer within {_TIMEOUT} s"))
    signal.alarm(_TIMEOUT)
    import torch.distributed as dist

    backend = os.environ["IGNITE_LAUNCH_BACKEND"]
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=_TIMEOUT))
        seconds = _time_all_reduce(backend)
    except (RuntimeError, ValueError) as error:
        _fail(str(error).splitlines()[0])
    if dist.get_rank() == 0:
        size, rate = dist.get_world_size(), _BYTES / seconds / 1e9
        between = f"{size} process{'es' * (size > 1)} over {backend}"
        print(f"all-reduce of {_BYTES >> 20} MiB between {between}: right, {rate:.2f} GB/s")
    dist.destroy_process_group()


def _time_all_reduce(backend: str) -> float:
    """Return the seconds of the fastest round; raise RuntimeError if a sum is wrong."""
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if backend == "nccl" else torch.device("cpu")
    times = []
    for _ in range(_ROUNDS):
        data = torch.full((_BYTES // 4,), 1.0 + dist.get_rank(), device=device)
        start = time.perf_counter()
        dist.all_reduce(data)
        largest = float(data.max())  # waits for a GPU
        times.append(time.perf_counter() - start)
        expected = dist.get_world_size() * (dist.get_world_size() + 1) / 2
        if not expected == largest == float(data.min()):
            raise RuntimeError(f"the sum is wrong: {float(data.min())} to {largest} instead of {expected}")
    return min(times)


def _fail(reason: str) -> None:
    print(f"the all-reduce failed on rank {os.environ.get('RANK', 0)}: {reason}", file=sys.stderr, flush=True)
    os._exit(1)  # a normal exit may wait for the other processes


if __name__ == "__main__":
    main()
