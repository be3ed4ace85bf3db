"""Chooses which lines of a child's stderr may be logged. Libraries print anything there, samples included.

Only what cannot be a sample's text passes: places in files that exist on this machine, types of exceptions, and phrases
of a fixed list, but no message.
"""

import builtins
import re
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 60
"""Most lines in a log record."""

PHRASES = (
    "Segmentation fault", "Bus error", "Illegal instruction", "Floating-point exception", "Fatal Python error",
    "Stack overflow", "terminate called", "CUDA error", "CUDA out of memory", "device-side assert", "NCCL error",
    "DefaultCPUAllocator", "Cannot allocate memory", "No space left on device", "Too many open files",
    "Connection refused", "Name or service not known", "CERTIFICATE_VERIFY_FAILED",
)  # fmt: skip
"""Phrases of fatal errors that occur in no exception's type."""

LIBRARIES = (
    "torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "huggingface_hub", "httpx", "pyarrow",
    "numpy", "scipy", "pydantic_core", "worker", "service",
)  # fmt: skip
"""Packages whose types of exceptions are named in full."""

_FRAME = re.compile(r'\s*File "(?P<file>[^"\n]{1,500})", line (?P<line>\d{1,7}),? in (?P<name>[\w.<>]{1,80})')
"""A line of a traceback, or of faulthandler, that names a place."""
_TYPE = re.compile(r"(?P<name>[A-Za-z_][\w.]{0,100})(?::|$)")
"""The last line of a traceback, which begins with the type of the exception."""
_BUILTIN = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
)
"""Names of the built-in exceptions."""


def loggable(stderr: str) -> list[str]:
    """Return the last MAX_LINES recognised lines, rewritten in a fixed form, without consecutive repetitions."""
    lines: list[str] = []
    for line in stderr.splitlines():
        for found in _recognised(line):
            if lines[-1:] != [found]:
                lines.append(found)
    return lines[-MAX_LINES:]


def _recognised(line: str) -> Iterator[str]:
    frame = _FRAME.match(line)
    if frame is not None:
        # A sample may contain a traceback, but its files are not on this machine.
        if Path(frame["file"]).is_absolute() and Path(frame["file"]).is_file():
            yield f'File "{frame["file"]}", line {frame["line"]}, in {frame["name"]}'
        return
    kind = _TYPE.match(line)
    if kind is not None:
        library, dot, _ = kind["name"].partition(".")
        if kind["name"] in _BUILTIN or (dot and library in LIBRARIES and kind["name"].endswith(("Error", "Exception"))):
            yield kind["name"]
    yield from (phrase for phrase in PHRASES if phrase in line)
