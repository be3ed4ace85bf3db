"""Bombs and traps against the whole API: each gets its own answer, in bounded memory, and leaves nothing."""

import contextlib
import io
import json
import random
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from tests.support.dataset_records import chat, chats, gzipped, jsonl
from tests.support.upload_leftovers import assert_nothing_left

MIB = 2**20
good = json.dumps(chat()).encode()


def parquet(table: Any = None, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(
        pa.table({"prompt": ["a"] * 50, "completion": ["b"] * 50}) if table is None else table, file, **options
    )
    return file.getvalue()


def footer_of(file: bytes) -> tuple[bytes, bytes]:
    """What comes before the footer, and the footer."""
    length = int.from_bytes(file[-8:-4], "little")
    return file[: -8 - length], file[-8 - length : -8]


def with_footer(body: bytes, footer: bytes) -> bytes:
    return body + footer + struct.pack("<I", len(footer)) + b"PAR1"


def overlapping_parquet(times: int) -> bytes:
    """The trick of 42.parquet: the footer lists the same row group again and again."""
    file = parquet()
    metadata = pq.read_metadata(io.BytesIO(file))
    again = pq.read_metadata(io.BytesIO(file))
    for _ in range(times - 1):
        metadata.append_row_groups(again)
    listed = io.BytesIO()
    metadata.write_metadata_file(listed)
    bomb = with_footer(footer_of(file)[0], footer_of(listed.getvalue())[1])
    assert pq.read_metadata(io.BytesIO(bomb)).num_rows == 50 * times
    return bomb


def dictionary_parquet(rows: int, size: int) -> bytes:
    """Each row is the same long text, which the file holds once."""
    text = random.Random(0).randbytes(size // 2).hex()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    return parquet(pa.table({"prompt": column, "completion": column}), store_schema=False, compression="zstd")


def arrow(table: Any, compression: str | None = None) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return file.getvalue()


def long_text_arrow() -> bytes:
    """Rows of 1.5 MB, of which the file holds one."""
    text = pa.array([random.Random(0).randbytes(750_000).hex()])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), text)
    return arrow(pa.table({"prompt": column, "completion": ["b"] * 300}))


def swollen_arrow() -> bytes:
    """A buffer that says of itself that it decompresses to a terabyte."""
    text = "ab" * 5000
    file = arrow(pa.table({"prompt": [text], "completion": ["b"]}), "zstd")
    before, said, after = file.rpartition(struct.pack("<q", len(text)))  # the one before it is the offset of its end
    assert said
    return before + struct.pack("<q", 2**40) + after


TRAPS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "NUL": (lambda: good.replace(b"tea", b"\\u0000"), 422, "dataset_invalid"),
    "NUL byte": (lambda: good.replace(b"tea", b"\0"), 422, "dataset_invalid"),
    "lone surrogate": (lambda: good.replace(b"tea", b"\\ud83d"), 422, "dataset_invalid"),
    "duplicate key": (lambda: good[:-1] + b', "x": 1, "x": 1}', 422, "dataset_invalid"),
    "NaN": (lambda: good[:-1] + b', "x": NaN}', 422, "dataset_invalid"),
    "deep": (lambda: good[:-1] + b', "x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", 422, "dataset_invalid"),
    "deep array": (lambda: b"[" * MIB, 422, "json_invalid"),
    "truncated gzip": (lambda: gzipped(chats(3000))[:-9], 422, "gzip_truncated"),
    "damaged gzip": (lambda: gzipped(chats(3000))[:-8] + bytes(8), 422, "gzip_corrupt"),
    "truncated zstd": (lambda: zstd.compress(chats(3000))[:-9], 422, "zstd_truncated"),
    "damaged zstd": (lambda: zstd.compress(chats(3000)) + b"012345678", 422, "zstd_corrupt"),
    "gzip bomb": (lambda: gzipped(b"\n" * (100 * MIB)), 413, "decompression_limit"),
    "zstd bomb": (lambda: zstd.compress(b"\n" * (100 * MIB)), 413, "decompression_limit"),
    "gzip in gzip": (lambda: gzipped(gzipped(chats(3))), 422, "format_not_recognised"),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), 422, "format_not_recognised"),
    "UTF-16": (lambda: good.decode().encode("utf-16"), 422, "format_not_recognised"),
    "noise": (lambda: b"\x80" + random.Random(1).randbytes(MIB), 422, "format_not_recognised"),
    "42.parquet": (lambda: overlapping_parquet(2000), 422, "parquet_invalid"),
    "parquet of one text": (lambda: dictionary_parquet(20_000, 100_000), 413, "decompression_limit"),
    "parquet of one long text": (lambda: dictionary_parquet(300, 1_500_000), 413, "decompression_limit"),
    "truncated parquet": (lambda: parquet()[:-20], 422, "parquet_invalid"),
    "parquet without an end": (lambda: b"PAR1" + bytes(50), 422, "parquet_invalid"),
    "parquet with a footer of 4 GB": (lambda: parquet()[:-8] + b"\xff\xff\xff\xffPAR1", 422, "parquet_invalid"),
    "parquet with a footer of noise": (
        lambda: with_footer(footer_of(parquet())[0], random.Random(2).randbytes(300)),
        422,
        "parquet_invalid",
    ),
    "damaged parquet": (
        lambda: parquet(compression="gzip").replace(b"\x1f\x8b", b"\x00\x00"),
        422,
        "parquet_invalid",
    ),
    "parquet with two columns of one name": (
        lambda: parquet(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt", "prompt"])),
        422,
        "parquet_invalid",
    ),
    "encrypted parquet": (lambda: b"PARE" + bytes(40) + b"PARE", 422, "format_not_recognised"),
    "Arrow of one text": (
        lambda: arrow(
            pa.table(
                {
                    "prompt": pa.DictionaryArray.from_arrays(
                        pa.array([0] * 20_000, pa.int32()), pa.array([random.Random(0).randbytes(50_000).hex()])
                    ),
                    "completion": ["b"] * 20_000,
                }
            )
        ),
        413,
        "decompression_limit",
    ),
    "Arrow of one long text": (long_text_arrow, 413, "decompression_limit"),
    "Arrow that is cut": (lambda: arrow(pa.table({"prompt": ["a"], "completion": ["b"]}))[:-20], 422, "arrow_invalid"),
    "Arrow of a terabyte": (swollen_arrow, 422, "parser_memory_limit"),
    "CSV quote never closed": (lambda: b'prompt,completion\na,"' + b"b,\n" * (6 * MIB), 422, "line_too_long"),
}


class ParserMemory:
    """The most memory that a parsing child of this process has, sampled in a thread."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Before it has become the parser it is a copy of this process.
                    if "service.datasets.parsing.parser" in child.cmdline():
                        self.peak = max(self.peak, child.memory_info().rss)

    def __enter__(self) -> "ParserMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_gets_its_answer_and_leaves_nothing(
    name: str, client: TestClient, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    make, status, code = TRAPS[name]
    data = make()
    started = time.monotonic()
    with ParserMemory() as memory:
        answer = client.post("/v1/datasets", content=data)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert "tea" not in json.dumps(body)
    assert 0 < memory.peak < 300 * MIB
    assert time.monotonic() - started < 60
    assert_nothing_left(settings, sessions)


def test_what_looks_odd_and_is_good_is_taken(client: TestClient) -> None:
    for data in (
        b"\xef\xbb\xbf" + chats(3),
        jsonl([chat("a\u202eb\u200bc", "\ufeff=1+1")]),
        b'\xef\xbb\xbf"prompt","completion"\r\n"=cmd","@x"\r\n',
    ):
        assert client.post("/v1/datasets", content=data).status_code == 201


def test_a_name_is_only_a_name(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    answer = client.post("/v1/datasets", content=chats(3), params={"name": "../../../etc/passwd"})
    assert answer.json()["name"] == "../../../etc/passwd"
    assert {path.name for path in settings.objects.rglob("*") if path.is_file()} == {"original", "rows.parquet"}
