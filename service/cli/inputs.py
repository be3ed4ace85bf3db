"""The input files of a command, checked before anything is started."""

import json
from pathlib import Path

from pydantic import ValidationError

from service.cli.errors import CommandError
from service.client.dataset_files import files_of
from service.contract.spec import ProbeItem

MAX_PROBE_BYTES = 64 << 20
"""The largest file that is read as a probe; a larger one is a dataset given in its place."""


def check_dataset(path: Path) -> None:
    """Check that a dataset is a readable, non-empty file, or a folder of such shards. The service checks its content.

    Args:
        path: The file or folder.

    Raises:
        CommandError: It is not.
    """
    form = "a JSONL, JSON, CSV, Parquet or Arrow file"
    try:
        files = files_of(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    for file in files:
        check_file(file, "dataset", form)
    if not sum(file.stat().st_size for file in files):
        raise CommandError(f"{path}: the file is empty; a dataset is {form} with samples in it")


def file_name(path: Path) -> str:
    """Return the name that a file gets in the service: its own, with what is not text replaced."""
    return path.name.encode(errors="replace").decode()[:200]


def text_columns(prompt: str | None, answer: str | None, system: str | None) -> dict[str, str]:
    """Collect the columns to read texts from, as an upload takes them.

    Args:
        prompt: The column of the prompt.
        answer: The column of the answer.
        system: The column of the instructions before the prompt.

    Returns:
        The query parameters; empty if the records have a known format.

    Raises:
        CommandError: The prompt's or the answer's column is named without the other.
    """
    named = {"prompt_column": prompt, "answer_column": answer, "system_column": system}
    given = {name: column for name, column in named.items() if column is not None}
    if given and (prompt is None or answer is None):
        missing = "--prompt-column" if prompt is None else "--answer-column"
        raise CommandError(f"{missing} is missing: name the column of the prompt and that of the answer, or neither")
    return given


def check_file(path: Path, what: str, form: str) -> None:
    """Check that a file exists and can be read.

    Args:
        path: The file.
        what: What it is called in errors, such as `dataset`.
        form: What it should be, such as `a JSONL file`.

    Raises:
        CommandError: There is no such file, or it cannot be read.
    """
    if not path.exists():
        raise CommandError(f"{path}: no such {what} file; check the path")
    if not path.is_file():
        raise CommandError(f"{path}: {'a folder' if path.is_dir() else 'not a file'}; the {what} is {form}")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CommandError(f"{path}: cannot read the {what}: {error.strerror}") from None


def read_probe(path: Path) -> list[dict[str, str | None]]:
    """Read a probe's items from a JSONL file.

    Args:
        path: The file.

    Returns:
        Items with `prompt`, `unwanted` and `reference`, which may be None.

    Raises:
        CommandError: The file cannot be read, is empty, or one of its lines is wrong, which the message names.
    """
    check_file(path, "probe", "a JSONL file")
    if path.stat().st_size > MAX_PROBE_BYTES:
        raise CommandError(f"{path}: more than {MAX_PROBE_BYTES >> 20} MiB, too large for a probe; is it the dataset?")
    items = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            items.append(_item(line, f"{path}: line {number}"))
    if not items:
        raise CommandError(
            f'{path}: the probe is empty; give one {{"prompt": ..., "unwanted": ...}} a line, `reference` is optional'
        )
    return items


def _item(line: bytes, where: str) -> dict[str, str | None]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise CommandError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError):
        raise CommandError(f"{where}: not valid JSON") from None
    if not isinstance(record, dict):
        raise CommandError(f"{where}: not a JSON object with `prompt` and `unwanted`")
    try:
        item = ProbeItem.model_validate(record).model_dump()
        blank = next((field for field, said in item.items() if said is not None and not said.strip()), None)
        if blank is not None:
            raise CommandError(f"{where}: `{blank}` is blank")
        return item
    except ValidationError as error:
        # Without the input: pydantic would quote it.
        first = error.errors(include_input=False, include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            raise CommandError(f"{where}: `{field}` is missing") from None
        if first["type"] == "extra_forbidden":
            raise CommandError(f"{where}: unknown field; a probe has prompt, unwanted and reference") from None
        raise CommandError(f"{where}: `{field}`: {first['msg']}") from None
    except UnicodeError:
        raise CommandError(f"{where}: not valid text") from None
