"""One upload while it is received: the original bytes, rows.parquet and the child that parses.

All methods block and belong in threads. Until `keep`, both objects are unfinished, and `abort` leaves no object, file
or process, whatever happened.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from service.datasets.parsing.records import Mapping
from service.settings import Settings
from service.store.objects import ObjectStore, dataset_key

REPORT_BYTES = 16 * 2**20
"""A longer report means that the child is broken."""

PIPE_BYTES = 1 << 20
"""Buffer between the API and the child, so that neither waits for the other at every read."""

SLOWEST_BYTES_PER_SECOND = 2**20
"""Bytes, received and decompressed, for each second of processor time that is granted. The child parses far faster, so
that only a malicious file reaches the limit."""

LEAST_CPU_SECONDS = 60
"""Processor time granted to an upload of any size."""

INHERITED = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
"""Environment variables that the child needs to start. It gets no other: those may hold secrets."""

CHILD_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    # Its address space is limited, and every arena and every thread reserves some.
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Form:
    """The format that the client declares for its upload."""

    format: str = "auto"
    """A record format, or `auto`."""
    mapping: Mapping | None = None
    encoding: str = "identity"
    """`gzip` or `zstd`, or `identity`, which declares nothing."""


class Parsed(BaseModel):
    """The child's report on a good upload."""

    outcome: Literal["parsed"]
    container: str
    encoding: str
    format: str
    rows: int
    columns: list[str]
    statistics: dict[str, Any]
    notices: list[dict[str, Any]]


class BadRecord(BaseModel):
    """The position of a record that is not valid, and why."""

    pointer: str
    """`line:N`, counted from 1, or `row:N`, counted from 0."""
    reason: str


class Invalid(BaseModel):
    """The child's report on an upload with bad records, of which the first are listed."""

    outcome: Literal["invalid"]
    bad: int
    errors: list[BadRecord]


class Refused(BaseModel):
    """The child's report on an upload that cannot be taken as a whole."""

    outcome: Literal["refused"]
    code: str
    detail: str
    status: int
    pointer: str | None


class Crashed(BaseModel):
    """The child's report on a defect of its own: the error's type and place, without its message."""

    outcome: Literal["crashed"]
    error: str


Report = Parsed | Invalid | Refused
_REPORT: TypeAdapter[Parsed | Invalid | Refused | Crashed] = TypeAdapter(
    Annotated[Parsed | Invalid | Refused | Crashed, Field(discriminator="outcome")]
)


class ParserError(RuntimeError):
    """The child failed by a defect of ours. The message holds no sample text."""


class Intake:
    """The steps of one upload: `start`, `feed` as bytes come, `finish`, `keep`; `abort` at any time after start."""

    def __init__(
        self, objects: ObjectStore, settings: Settings, *, workspace_id: str, dataset_id: str, form: Form
    ) -> None:
        """Prepare an upload; nothing is created yet.

        Args:
            objects: The store that keeps its bytes.
            settings: Its limits, and the folder for unfinished files.
            workspace_id: The workspace of the dataset.
            dataset_id: The id that the dataset will have.
            form: The format that the client declares.
        """
        self.bytes = 0
        self._objects = objects
        self._settings = settings
        self._folder = dataset_key(workspace_id, dataset_id)
        self._original_key = dataset_key(workspace_id, dataset_id, "original")
        self._rows_key = dataset_key(workspace_id, dataset_id, "rows.parquet")
        self._form = form
        self._sha256 = hashlib.sha256()
        self._files = contextlib.ExitStack()
        self._original: IO[bytes] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def start(self) -> None:
        """Open both objects and start the child."""
        self._original = self._files.enter_context(self._objects.create(self._original_key))
        rows = self._files.enter_context(self._objects.create(self._rows_key))
        settings = self._settings
        settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Without a name, so that nothing remains of it after a kill.
        scratch = self._files.enter_context(tempfile.TemporaryFile(dir=settings.work))  # noqa: SIM115
        original = os.open(f"/dev/fd/{self._original.fileno()}", os.O_RDONLY)
        self._files.callback(os.close, original)
        options = {
            "output": rows.fileno(),
            "original": original,
            "scratch": scratch.fileno(),
            **asdict(self._form),
            "max_text_bytes": settings.max_upload_bytes,
            "max_line_bytes": settings.max_line_bytes,
            "max_ratio": settings.max_decompression_ratio,
            "max_rows": settings.max_dataset_rows,
            "memory_bytes": settings.parser_memory_bytes,
            "cpu_seconds": LEAST_CPU_SECONDS,
            "cpu_bytes_per_second": SLOWEST_BYTES_PER_SECOND,
        }
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.datasets.parsing.parser", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A traceback may quote a sample.
            stderr=subprocess.DEVNULL,
            pass_fds=[rows.fileno(), original, scratch.fileno()],
            env=inherited | CHILD_ENVIRONMENT,
            start_new_session=True,
            pipesize=PIPE_BYTES,
        )

    def feed(self, chunks: Iterable[bytes]) -> bool:
        """Hash and store the bytes and pass them to the child; return False once the child accepts no more."""
        data = b"".join(chunks)
        assert self._original is not None
        assert self._child is not None
        assert self._child.stdin is not None
        self.bytes += len(data)
        self._sha256.update(data)
        self._original.write(data)
        try:
            self._child.stdin.write(data)
            self._child.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def finish(self) -> Report:
        """Wait for the child's report.

        Returns:
            The report; one that refuses the file also if the child was killed at a limit.

        Raises:
            ParserError: The child failed by a defect of ours.
        """
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        assert self._original is not None
        # A child that needs the whole file reads it as soon as the pipe has ended.
        self._original.flush()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        text = child.stdout.read(REPORT_BYTES + 1)
        if len(text) > REPORT_BYTES:
            raise ParserError("the parser's report is too long")
        status = child.wait()
        child.stdout.close()
        if status < 0:
            return _stopped(-status)
        try:
            report = _REPORT.validate_json(text)
        except ValidationError:
            raise ParserError(f"the parser ended with status {status} and without a report") from None
        if isinstance(report, Crashed):
            raise ParserError(f"the parser failed: {report.error}")
        return report

    def stop(self) -> None:
        """Kill the child, so that a `finish` in another thread raises or returns; its result must be discarded."""
        if self._child is not None:
            _kill(self._child)

    def keep(self) -> None:
        """Make both objects appear. If they cannot be recorded afterwards, call `discard`."""
        self._files.close()

    def discard(self) -> None:
        """Delete what `keep` made."""
        self._objects.delete_tree(self._folder)

    def abort(self) -> None:
        """Kill the child and remove everything. It may be called twice, and after a failed start.

        Raises:
            _Abandoned: Inside only, so that the files' context managers see an error; callers get none.
        """
        if self._child is not None:
            _end(self._child)
        # On a full disk, what a file's buffer still holds cannot be written when it is closed either.
        with contextlib.suppress(_Abandoned, OSError), self._files:
            raise _Abandoned
        self.discard()


class _Abandoned(Exception):  # noqa: N818  # no error: it makes the open objects vanish
    pass


def _end(child: subprocess.Popen[bytes]) -> None:
    _kill(child)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        # It has its own session; until it is reaped its number is not given to another process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _stopped(number: int) -> Refused:
    if number == signal.SIGXCPU:
        code, detail = "parser_time_limit", "Parsing this file takes too long. Split it into several datasets."
    elif number != signal.SIGKILL:
        # Libraries that read Parquet and Arrow end their process where they do not expect an error.
        code = "parser_crashed"
        detail = (
            "The library that reads this kind of file crashed on it: the file is damaged, or asks for more memory than "
            "an upload may use. Write it again with the tool that made it, or upload it as JSONL."
        )
    else:
        code = "parser_memory_limit"
        detail = "The parser was stopped, most likely for using too much memory. Split large records, or the file."
    return Refused(outcome="refused", code=code, detail=detail, status=422, pointer=None)
