"""Whether the GPU computes: `python -m worker.child.check_device`. Exit code 0, or 1 with the reason on stderr.

A process of its own, since one in which CUDA has failed cannot use it again.
"""

import sys

import torch

SIDE = 2048
"""Side of the square matrices that are multiplied: sums of so many ones, which float32 holds exactly."""


def main() -> int:
    """Compute something whose result is known; the exit code."""
    try:
        # Not `is_available`, which takes a driver that is too old or gone for a machine without a GPU.
        torch.cuda.init()
        ones = torch.ones(SIDE, SIDE, device="cuda")
        exact = bool((ones @ ones == SIDE).all())
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        print(lines[0], file=sys.stderr)  # noqa: T201
        return 1
    if not exact:
        print("a product of two matrices was wrong", file=sys.stderr)  # noqa: T201
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
