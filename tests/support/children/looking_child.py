"""A child that tells what it finds itself to be: `looking_child.py FOLDER`, as JSON on stdout."""

import gc
import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from worker.child import run

OF_GLIBC = 0b11 << 31
"""Signals 32 and 33, which glibc catches once a process has had a second thread."""


def look() -> dict[str, Any]:
    """What must be alike in a spawned and in a forked child, and under `own` what must not."""
    import numpy as np
    import torch

    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    umask = os.umask(0o077)
    streams = (sys.stdin, sys.stdout, sys.stderr)
    matrix = np.arange(640_000, dtype=np.float32).reshape(800, 800) / 640_000
    products = (matrix @ matrix, (torch.from_numpy(matrix) @ torch.from_numpy(matrix)).numpy())
    return {
        "leads its session": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "parent": os.getppid(),
        "folder": os.getcwd(),
        "umask": umask,
        # One is of the listing itself.
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "pipes": [os.readlink(f"/proc/self/fd/{number}").partition(":")[0] for number in range(3)],
        "signals": {name: int(status[name], 16) & ~OF_GLIBC for name in ("SigBlk", "SigIgn", "SigCgt")},
        "handlers": {number.name: repr(signal.getsignal(number)) for number in signal.Signals},
        "environment": dict(os.environ),
        "path": sys.path,
        "argument": sys.argv[1:],
        "streams": [(stream.encoding, stream.errors, stream.line_buffering) for stream in streams],
        "collects": (gc.isenabled(), gc.get_threshold()),
        "left out": [sys.modules[name] for name in run.LEFT_OUT],
        "torch": (torch.get_num_threads(), torch.get_num_interop_threads(), str(torch.get_default_dtype())),
        "gpu": (torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork()),
        "products": [hashlib.sha256(product.tobytes()).hexdigest() for product in products],
        "own": {
            "pid": os.getpid(),
            "draws": [random.random(), float(np.random.random()), float(torch.rand(1))],
            "command": Path("/proc/self/cmdline").read_text().replace("\0", " ").split(),
        },
    }  # fmt: skip


if __name__ == "__main__":
    run.leave_out(run.LEFT_OUT)
    import worker.child.train  # noqa: F401

    print(json.dumps(look()))
