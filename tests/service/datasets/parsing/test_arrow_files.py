"""Arrow IPC, stream and file, as pyarrow writes them: read like Parquet; what is cut, damaged or a bomb is said so."""

import base64
import gzip
import io
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tests.support.dataset_records import turn
from tests.support.parser_runs import MIB, rows_of, run

TALKS = [[turn("user", f"Which of {number} doors?"), turn("assistant", f"Door {number}.")] for number in range(300)]
TABLE = pa.table({"messages": TALKS, "source": ["left", None, "right"] * 100})


def stream(table: Any, rows: int = 100, **options: Any) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return file.getvalue()


def arrow_file(table: Any, rows: int = 100, **options: Any) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return file.getvalue()


def feather_of(table: Any) -> bytes:
    file = io.BytesIO()
    feather.write_feather(table, file)
    return file.getvalue()


WRITERS = {
    "stream": stream,
    "stream, LZ4": lambda table: stream(table, compression="lz4"),
    "stream, ZSTD": lambda table: stream(table, compression="zstd"),
    "stream of Arrow 0.14's alignment": lambda table: stream(table, metadata_version=pa.ipc.MetadataVersion.V4),
    "file": arrow_file,
    "file, ZSTD": lambda table: arrow_file(table, compression="zstd"),
    "Feather": feather_of,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("chunk", [3, 1 << 16])
def test_what_pyarrow_writes_is_read(writer: str, chunk: int, tmp_path: Path) -> None:
    report = run(WRITERS[writer](TABLE), tmp_path / "rows.parquet", chunk=chunk)
    assert report["outcome"] == "parsed", report
    assert (report["container"], report["format"], report["rows"]) == ("arrow", "messages", 300)
    rows = rows_of(tmp_path / "rows.parquet")
    assert [row["messages"] for row in rows] == TALKS
    assert [row["extra"]["source"] for row in rows[:3]] == ["left", None, "right"]


@pytest.mark.parametrize("writer", WRITERS)
def test_dictionaries_large_types_and_views_are_texts(writer: str, tmp_path: Path) -> None:
    columns = {
        "prompt": pa.array(["one", "two", "one"] * 50).dictionary_encode(),
        "completion": pa.array(["a", "b", "c"] * 50, pa.large_string()),
        "note": pa.array(["short", None, "a text that does not fit into a view itself"] * 50, pa.string_view()),
        "tags": pa.array([["x"], [], None] * 50, pa.large_list(pa.string())),
    }
    report = run(WRITERS[writer](pa.table(columns)), tmp_path / "rows.parquet")
    assert report["outcome"] == "parsed", report
    rows = rows_of(tmp_path / "rows.parquet")
    assert [[message["content"] for message in row["messages"]] for row in rows[:3]] == [
        ["one", "a"],
        ["two", "b"],
        ["one", "c"],
    ]
    assert rows[2]["extra"] == {"note": "a text that does not fit into a view itself", "tags": None}


def test_dictionaries_may_be_replaced_and_grow(tmp_path: Path) -> None:
    for options in ({}, {"emit_dictionary_deltas": True}):
        file = io.BytesIO()
        schema = pa.schema([("prompt", pa.dictionary(pa.int32(), pa.string())), ("completion", pa.string())])
        with pa.ipc.new_stream(file, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            for words in (["a", "b"], ["a", "b", "c"]):
                indices = pa.array(range(len(words)), pa.int32())
                column = pa.DictionaryArray.from_arrays(indices, pa.array(words))
                writer.write_batch(pa.record_batch([column, pa.array(words)], schema=schema))
        report = run(file.getvalue(), tmp_path / "rows.parquet")
        assert report["rows"] == 5, report
        assert all(
            row["messages"][0]["content"] == row["messages"][1]["content"] for row in rows_of(tmp_path / "rows.parquet")
        )


def test_streams_one_after_the_other_are_one_upload(tmp_path: Path) -> None:
    """As the shards of a dataset."""
    shards = b"".join(stream(TABLE.slice(start, 150)) for start in (0, 150))
    assert run(shards, tmp_path / "rows.parquet")["rows"] == 300
    assert [row["messages"] for row in rows_of(tmp_path / "rows.parquet")] == TALKS
    other = stream(pa.table({"prompt": ["a"], "completion": ["b"]}))
    report = run(stream(TABLE) + other, tmp_path / "rows.parquet")
    assert (report["code"], "different columns" in report["detail"]) == ("arrow_invalid", True)
    for junk in (b"junk", b"\xff\xff\xff\xff", bytes(64)):
        assert run(stream(TABLE) + junk, tmp_path / "rows.parquet")["code"] == "arrow_invalid"


@pytest.mark.parametrize("write", [stream, arrow_file, feather_of])
def test_files_without_rows_are_empty(write: Any, tmp_path: Path) -> None:
    report = run(write(TABLE.schema.empty_table()), tmp_path / "rows.parquet")
    assert report["code"] == "dataset_empty"


@pytest.mark.parametrize("write", [stream, arrow_file, feather_of])
def test_a_file_that_was_cut_anywhere_is_refused(write: Any, tmp_path: Path) -> None:
    upload = write(TABLE)
    for left in [8, 9, 12, len(upload) - 1, len(upload) - 4, len(upload) - 8, *range(20, len(upload), 997)]:
        report = run(upload[:left], tmp_path / "rows.parquet")
        assert report["code"] == "arrow_invalid", (left, report)


def test_a_stream_that_ends_between_two_batches_has_no_end_mark(tmp_path: Path) -> None:
    report = run(stream(TABLE)[:-8], tmp_path / "rows.parquet")
    assert (report["code"], "no end mark" in report["detail"]) == ("arrow_invalid", True)


def test_compressed_arrow_and_feather_1_are_named(tmp_path: Path) -> None:
    for upload, said in (
        (gzip.compress(stream(TABLE)), "a compressed Arrow stream: upload the Arrow file itself"),
        (gzip.compress(arrow_file(TABLE)), "a compressed Arrow file: upload the Arrow file itself"),
        (b"FEA1" + bytes(60) + b"FEA1", "a Feather file of version 1"),
    ):
        report = run(upload, tmp_path / "rows.parquet")
        assert (report["code"], said in report["detail"]) == ("format_not_recognised", True), report


def test_values_without_a_form_are_left_out_or_refused(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a"] * 2,
        "completion": ["b"] * 2,
        "by_name": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        "image": pa.array([b"\xff\xfe", b"plain"]),
    }
    report = run(stream(pa.table(columns)), tmp_path / "rows.parquet")
    assert report["columns"] == ["image"], report
    assert [row["extra"]["image"] for row in rows_of(tmp_path / "rows.parquet")] == [None, "plain"]
    report = run(stream(pa.table(columns | {"prompt": columns["by_name"]})), tmp_path / "rows.parquet")
    assert report["code"] == "arrow_type_unsupported", report
    report = run(stream(pa.table(columns | {"prompt": columns["image"]})), tmp_path / "rows.parquet")
    assert report["code"] == "arrow_type_unsupported", report


def test_texts_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        upload = stream(pa.table({"prompt": pa.array(["x" * 40], kind), "completion": ["b"]}))
        report = run(upload.replace(b"x" * 40, b"\xff" * 40), tmp_path / "rows.parquet")
        assert report["code"] == "arrow_invalid", (kind, report)


def test_names_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    outer = pa.table({"prompt": ["a"], "completion": ["b"], "nameless": ["c"]})
    nested = pa.table({"prompt": ["a"], "completion": ["b"], "x": [{"nameless": "c"}]})
    for table in (outer, nested):
        file = io.BytesIO()
        pq.write_table(table, file, store_schema=False)
        for upload, container in ((file.getvalue(), "parquet"), (stream(table), "arrow"), (arrow_file(table), "arrow")):
            report = run(upload.replace(b"nameless", b"name\xff\xfe\xfd\xfc"), tmp_path / "rows.parquet")
            assert report["code"] == f"{container}_invalid", report


def test_columns_must_be_few_and_of_different_names(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], ["c"]], ["prompt", "completion", "prompt"])
    assert run(stream(table), tmp_path / "rows.parquet")["code"] == "arrow_invalid"
    wide = pa.table({f"column {number}": ["a"] for number in range(2001)})
    assert run(stream(wide), tmp_path / "rows.parquet")["code"] == "arrow_invalid"


def test_a_dataset_has_as_many_rows_as_any_other(tmp_path: Path) -> None:
    report = run(stream(TABLE), tmp_path / "rows.parquet", max_rows=299)
    assert (report["code"], report["status"]) == ("too_many_rows", 413)


# ---------------------------------------------------------------- bombs


def repeated(kind: Any, length: int = MIB, rows: int = 600) -> Any:
    """Each row is the same long text, which the file holds once."""
    text = base64.b64encode(bytes(range(256)) * (length // 256)).decode()
    if kind == "dictionary":
        column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    else:
        data = text.encode()
        view = struct.pack("<i4sii", len(data), data[:4], 0, 0)
        column = pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(view * rows), pa.py_buffer(data)])
        column.validate(full=True)
    return pa.table({"prompt": column, "completion": ["b"] * rows})


def test_a_text_that_all_rows_share_counts_in_each(tmp_path: Path) -> None:
    for kind in ("dictionary", "view"):
        for upload in (stream(repeated(kind), rows=600), arrow_file(repeated(kind), rows=600)):
            assert len(upload) < 2 * MIB
            report = run(upload, tmp_path / "rows.parquet", max_text_bytes=10**9, max_ratio=100)
            assert (report["code"], report["status"]) == ("decompression_limit", 413), report


def test_buffers_that_grow_too_much_are_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a" * 100_000] * 600, "completion": ["b"] * 600})
    for upload in (stream(table, compression="zstd"), arrow_file(table, compression="zstd")):
        report = run(upload, tmp_path / "rows.parquet", max_text_bytes=10**9)
        assert (report["code"], report["status"]) == ("decompression_limit", 413), report


def test_a_dictionary_is_counted_once_however_many_batches_share_it(tmp_path: Path) -> None:
    """Texts of a category, in Parquet with Arrow's schema and in Arrow."""
    words = pa.array([f"{number:05} " + "word " * 20 for number in range(20_000)])
    indices = pa.array([number % 20_000 for number in range(20_000)], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, words)
    table = pa.table({"prompt": column, "completion": ["b"] * 20_000})
    file = io.BytesIO()
    pq.write_table(table, file)
    for upload in (file.getvalue(), stream(table), feather_of(table)):
        report = run(upload, tmp_path / "rows.parquet", max_rows=20_000)
        assert report.get("rows") == 20_000, report
