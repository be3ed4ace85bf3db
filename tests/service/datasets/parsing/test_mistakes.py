"""Files that people upload by mistake, or write a little otherwise: read, or named with what to do."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from tests.support.dataset_records import chat, chats, gzipped, jsonl
from tests.support.parser_runs import MIB, rows_of, run

RECORDS = [chat(f"Question {number}?") for number in range(300)]


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 20])
def test_objects_over_several_lines_are_read(chunk: int, tmp_path: Path) -> None:
    records = RECORDS if chunk > 1 else RECORDS[:3]
    upload = "\n".join(json.dumps(record, indent=2) for record in records).encode()
    report = run(b"\xef\xbb\xbf" + upload, tmp_path / "rows.parquet", chunk=chunk)
    assert (report["container"], report["rows"]) == ("json", len(records))
    assert [row["messages"] for row in rows_of(tmp_path / "rows.parquet")] == [r["messages"] for r in records]


def test_broken_objects_are_named_by_their_row(tmp_path: Path) -> None:
    whole = json.dumps(chat(), indent=1).encode()
    report = run(whole + b"\n" + whole[:-3], tmp_path / "rows.parquet")
    assert (report["code"], report["pointer"]) == ("json_invalid", "row:1")
    assert "The JSON objects are broken: record 1 ends too early" in report["detail"]
    report = run(whole + whole.replace(b"assistant", b"user"), tmp_path / "rows.parquet")
    assert [error["pointer"] for error in report["errors"]] == ["row:1"]
    report = run(b"{\n" + b" " * (4 * MIB), tmp_path / "rows.parquet")
    assert report["code"] in ("json_invalid", "line_too_long")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_within_an_object_is_named(indent: int | None, tmp_path: Path) -> None:
    report = run(json.dumps({"version": 1, "data": RECORDS}, indent=indent).encode(), tmp_path / "rows.parquet")
    assert report["code"] == "format_not_recognised"
    assert "If 'data' holds the records, upload that list alone, as a JSON array." in report["detail"]


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo("chat.jsonl")
        entry.size = len(chats(3))
        tar.addfile(entry, io.BytesIO(chats(3)))
    return file.getvalue()


def form() -> bytes:
    mark = b"--------------------------0123456789abcdef"
    head = b'\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return mark + head + chats(3) + b"\r\n" + mark + b"--\r\n"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        (archive(), "an archive of tar"),
        (gzipped(archive()), "an archive of tar"),
        (form(), "curl --data-binary @FILE"),
        (b"ORC\x08\x03", "an ORC file"),
        (pickle.dumps([chat()], protocol=4), "a pickle"),
        (b"\x93NUMPY\x01\x00", "a NumPy file"),
        (b"PARE" + bytes(40) + b"PARE", "an encrypted Parquet file"),
        (b"\n <!DOCTYPE html>\n<html>", "a web page"),
        (b"<html><body>", "a web page"),
        (POINTER, "`git lfs pull`"),
        (b'prompt,completion\r"a","b"\r"c","d"\r', "carriage returns alone"),
        (chats(3).replace(b"\n", b"\r"), "carriage returns alone"),
        (b"prompt|completion\na|b\n", "not parted by commas"),
    ],
)
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_other_files_are_named_with_what_to_do(upload: bytes, said: str, chunk: int, tmp_path: Path) -> None:
    report = run(upload, tmp_path / "rows.parquet", chunk=chunk)
    assert report["code"] == "format_not_recognised", report
    assert said in report["detail"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (repr(chat()).encode(), "write records with json.dumps"),
        (b'{"messages": [], "checked": True}', "write records with json.dumps"),
        (json.dumps(chat()).encode() + b", ", "a comma ends the line"),
        (json.dumps(chat()).encode() * 2, "curl --data-binary"),
    ],
)
def test_lines_that_are_nearly_json_get_a_hint(line: bytes, said: str, tmp_path: Path) -> None:
    report = run(jsonl([chat()]) + line + b"\n", tmp_path / "rows.parquet")
    (error,) = report["errors"]
    assert error["pointer"] == "line:2"
    assert said in error["reason"]


def test_lists_of_turns_on_lines_of_their_own_are_told_their_form(tmp_path: Path) -> None:
    report = run(jsonl([chat()["messages"], chat()["messages"]]), tmp_path / "rows.parquet")
    assert report["code"] == "json_invalid"
    assert 'a list of turns is written as {"messages": [...]}' in report["detail"]


def test_turns_in_python_s_notation_in_a_cell_get_a_hint(tmp_path: Path) -> None:
    cell = repr(chat()["messages"]).replace('"', '""')
    report = run(f'messages\n"{cell}"\n'.encode(), tmp_path / "rows.parquet")
    assert "write records with json.dumps" in report["errors"][0]["reason"]
