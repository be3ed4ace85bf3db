"""Writes records as JSON lines, CSV or Parquet. The same records give the same bytes."""

import csv
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.lifecycle.exports import Format
from worker.supervisor.export.csv_cells import harmless

Record = Mapping[str, Any]
"""Values by column, in the order of the schema. `messages` are turns, `extra` is the text of a JSON object."""


class MeasuredFile:
    """A file to write into, which counts and hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    @property
    def sha256(self) -> str:
        """Hash of what was written so far, as hexadecimal digits."""
        return self._sha256.hexdigest()

    def write(self, data: Any) -> int:
        """Write some bytes, and return how many they were."""
        self._sha256.update(data)
        size = len(data)
        self.bytes += size
        self._file.write(data)
        return size

    def tell(self) -> int:
        """Return how many bytes were written so far."""
        return self.bytes

    def flush(self) -> None:
        """Do nothing: whoever owns the file flushes it."""

    def writable(self) -> bool:
        """Return True, as pyarrow asks for."""
        return True


class Writer(ABC):
    """Writes records of one schema."""

    @abstractmethod
    def write(self, records: Sequence[Record]) -> None:
        """Write some more records."""

    def finish(self) -> None:  # noqa: B027  # two of three have no end
        """Write what has to follow the last record."""


def make_writer(format: Format, file: MeasuredFile, schema: pa.Schema) -> Writer:
    """Return a writer of records.

    Args:
        format: The format of the file.
        file: The file to write into.
        schema: The columns of the records.
    """
    match format:
        case "jsonl":
            return JsonLinesWriter(file)
        case "csv":
            return CsvWriter(file, schema)
        case "parquet":
            return ParquetWriter(file, schema)


class JsonLinesWriter(Writer):
    """One JSON object a line; `extra` is an object in it."""

    def __init__(self, file: MeasuredFile) -> None:
        self._file = file

    def write(self, records: Sequence[Record]) -> None:
        """Write each record as a line of JSON."""
        self._file.write(b"".join(_json(record) + b"\n" for record in records))


class CsvWriter(Writer):
    """RFC 4180 in UTF-8 with a header. Text is made harmless for spreadsheets; numbers and names of columns are ours.

    `messages` and `extra` are cells of JSON; before them `prompt` and `answer` hold the same text for reading.
    """

    def __init__(self, file: MeasuredFile, schema: pa.Schema) -> None:
        self._file = file
        self._text: list[str] = []
        self._csv = csv.writer(self._Collector(self._text), lineterminator="\r\n")
        names = list(schema.names)
        if "messages" in names:
            at = names.index("messages")
            names[at:at] = ["prompt", "answer"]
        self._names = names
        self._csv.writerow(names)
        self._flush()

    def write(self, records: Sequence[Record]) -> None:
        """Write each record as a row."""
        for record in records:
            self._csv.writerow([_cell(self._value(record, name)) for name in self._names])
        self._flush()

    def _value(self, record: Record, name: str) -> Any:
        match name:
            case "messages":
                return orjson.dumps(record["messages"]).decode()
            case "prompt":
                return "\n\n".join(turn["content"] for turn in record["messages"][:-1])
            case "answer":
                return record["messages"][-1]["content"]
            case _:
                return record[name]

    def _flush(self) -> None:
        self._file.write("".join(self._text).encode())
        self._text.clear()

    class _Collector:
        def __init__(self, text: list[str]) -> None:
            self._text = text

        def write(self, text: str) -> None:
            self._text.append(text)


class ParquetWriter(Writer):
    """Parquet, zstd; `extra` is a column of JSON text, as in rows.parquet."""

    def __init__(self, file: MeasuredFile, schema: pa.Schema) -> None:
        self._schema = schema
        self._parquet = pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, compression="zstd")

    def write(self, records: Sequence[Record]) -> None:
        """Write the records as a row group."""
        if records:
            self._parquet.write_table(pa.Table.from_pylist(list(records), self._schema))

    def finish(self) -> None:
        """Write the footer."""
        self._parquet.close()


class SampleLinesWriter(Writer):
    """Samples as training data, where the upload had no lines of its own: `messages`, and beside it what was in extra.

    An extra column that is itself called messages is called extra_messages.
    """

    def __init__(self, file: MeasuredFile) -> None:
        self._file = file

    def write(self, records: Sequence[Record]) -> None:
        """Write each sample as a line of JSON."""
        self._file.write(b"".join(_sample_line(record["messages"], record["extra"]) for record in records))


def _json(record: Record) -> bytes:
    if "extra" not in record:
        return orjson.dumps(record)
    # As it stands: parsing would round what a double cannot hold.
    return orjson.dumps({**record, "extra": orjson.Fragment(record["extra"])})


def _sample_line(messages: Sequence[Mapping[str, str]], extra: str) -> bytes:
    head = b'{"messages":' + orjson.dumps(messages)
    if extra == "{}":
        return head + b"}\n"
    if '"messages"' in extra:
        extra = _renamed(extra)
    return head + b"," + extra[1:].encode() + b"\n"


def _renamed(extra: str) -> str:
    columns = json.loads(extra)
    if "messages" not in columns:
        return extra
    name = "extra_messages"
    while name in columns:
        name = f"extra_{name}"
    return json.dumps(
        {name if key == "messages" else key: value for key, value in columns.items()},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
