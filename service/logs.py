"""Logs of every process: lines of JSON, or text on a terminal, on stderr. Never a sample's text, never a key.

A line has timestamp (UTC), level, logger and message; and, where they are known, request_id, what a worker is busy with
(audit, export or dataset) and its attempt.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

_context: ContextVar[dict[str, Any]] = ContextVar("log_context", default={})  # noqa: B039  # never changed in place

log = logging.getLogger(__name__)

OWN = ("service", "worker", "uvicorn", "celery")
"""Loggers whose informative lines are kept; of all others, warnings."""


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Adds the fields that are not None to every line of this thread or task within the block."""
    token = _context.set(_context.get() | {name: value for name, value in fields.items() if value is not None})
    try:
        yield
    finally:
        _context.reset(token)


def configure_logging(form: Literal["auto", "text", "json"]) -> None:
    """Makes this process log in our form, whatever its server has set up before. auto: text on a terminal."""
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextLines() if as_text else JsonLines())
    handler.set_name("finetooth")
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == "finetooth"]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in OWN]:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for name in OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread
    # It quotes whole addresses, and one of them holds the token of a sign-in link; service.access logs without.
    logging.getLogger("uvicorn.access").propagate = False


def _log_thread(ended: threading.ExceptHookArgs) -> None:
    """Python's own hook prints the error's message, which may quote a sample."""
    if ended.exc_type is not SystemExit:
        name = ended.thread.name if ended.thread else "unknown"
        log.error("thread %s ended:\n%s", name, describe_error(ended.exc_value))


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, without the message of its error."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        if record.exc_info:
            line["error"] = describe_error(record.exc_info[1])
        # Not orjson, which refuses the surrogates of a file name that is no UTF-8: the line would be lost.
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Formats records for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, and the stack of its error below it."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        context = "".join(f" {name}={value}" for name, value in _context.get().items())
        line = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}{context}"
        return f"{line}\n{describe_error(record.exc_info[1])}" if record.exc_info else line


def describe_error(error: BaseException | None) -> str:
    """Types and stack of an error and its causes, without messages: those may quote a sample or a key."""
    lines: list[str] = []
    while error is not None:
        state = getattr(error, "sqlstate", None)
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}" + (f" (SQLSTATE {state})" if state else ""))
        lines += describe_stack(error.__traceback__)
        error = error.__cause__ or error.__context__
    return "\n".join(lines)


def describe_stack(trace: TracebackType | None) -> list[str]:
    """Return the frames of a stack as text, each with its line of code."""
    return [line.rstrip() for line in traceback.format_tb(trace)]
