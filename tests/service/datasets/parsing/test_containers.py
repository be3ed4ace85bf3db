"""Every container and format: written by an independent writer, parsed, and equal; what is broken is said so."""

import base64
import csv
import datetime
import decimal
import io
import json
import math
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.dataset_records import chat, chats, gzipped, jsonl, turn
from tests.support.parser_runs import MIB, canonical_sha256, rows_of, run

Record = dict[str, Any]
SLOW_FIXTURE = hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
cell = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["a,b", 'say "x"', "two\nlines", "two\r\nlines", "=1+1", "", " ", "\ufeff"]
)
roles = st.sampled_from(["system", "user", "assistant", "tool"])
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}


@st.composite
def conversation(draw: st.DrawFn, texts: st.SearchStrategy[str] = text) -> list[dict[str, str]]:
    return [turn(role, draw(texts)) for role in draw(st.lists(roles, max_size=3))] + [turn("assistant", draw(texts))]


def record_of(format: str, messages: list[dict[str, str]]) -> Record:
    """A record that must become these messages; of pairs, the last two texts are used."""
    question, answer = messages[0]["content"], messages[-1]["content"]
    if format == "messages":
        return {"messages": messages}
    if format == "sharegpt":
        return {"conversations": [{"from": SHAREGPT[item["role"]], "value": item["content"]} for item in messages]}
    if format == "alpaca":
        return {"instruction": question, "input": "", "output": answer}
    names = ("prompt", "completion") if format == "prompt_completion" else ("q", "a")
    return dict(zip(names, (question, answer), strict=True))


def expected(format: str, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    if format in ("messages", "sharegpt"):
        return messages
    return [turn("user", messages[0]["content"]), turn("assistant", messages[-1]["content"])]


def write_json(records: list[Record], indent: int | None = None) -> bytes:
    return json.dumps(records, ensure_ascii=False, indent=indent).encode()


def write_csv(records: list[Record], newline: str = "\r\n", quoting: Any = csv.QUOTE_MINIMAL) -> bytes:
    file = io.StringIO(newline="")
    # RFC 4180 wants line ends in a field quoted; Python before 3.13 leaves a lone carriage return bare.
    if any("\r" in str(value) for record in records for value in record.values()):
        quoting = csv.QUOTE_ALL
    writer = csv.DictWriter(file, list(records[0]), lineterminator=newline, quoting=quoting)
    writer.writeheader()
    for record in records:
        cells = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
        writer.writerow(cells)
    return file.getvalue().encode()


def write_parquet(records: list[Record], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file, **options)
    return file.getvalue()


FORMATS = ("messages", "alpaca", "sharegpt", "prompt_completion", "mapped")
MAPPING = {"prompt": "q", "answer": "a", "system": None}
ENCODERS = {"identity": lambda data: data, "gzip": gzipped, "zstd": zstd.compress}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("container", ["jsonl", "json", "csv", "parquet"])
@SLOW_FIXTURE
@given(data=st.data())
def test_what_is_written_comes_back(container: str, format: str, data: st.DataObject, tmp_path: Path) -> None:
    texts = cell if container == "csv" else text
    talks = data.draw(st.lists(conversation(texts), min_size=1, max_size=5))
    tags = data.draw(st.lists(texts, min_size=len(talks), max_size=len(talks)))
    records = [record_of(format, talk) | {"tag": tag} for talk, tag in zip(talks, tags, strict=True)]
    if container == "jsonl":
        upload = jsonl(records)
    elif container == "json":
        upload = write_json(records, data.draw(st.sampled_from([None, 1])))
    elif container == "csv":
        quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        upload = write_csv(records, data.draw(st.sampled_from(["\n", "\r\n"])), quoting)
    else:
        upload = write_parquet(records, row_group_size=2, compression=data.draw(st.sampled_from(["snappy", "zstd"])))
    encoding = "identity"
    if container != "parquet":
        upload = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + upload
        encoding = data.draw(st.sampled_from(sorted(ENCODERS)))
    path = tmp_path / "rows.parquet"
    mapping = MAPPING if format == "mapped" else None

    chunk = data.draw(st.sampled_from([1, 7, 1 << 16]))
    report = run(ENCODERS[encoding](upload), path, chunk=chunk, mapping=mapping)

    assert report["outcome"] == "parsed", report
    assert (report["container"], report["format"], report["encoding"]) == (container, format, encoding)
    rows = rows_of(path)
    assert [row["messages"] for row in rows] == [expected(format, talk) for talk in talks]
    assert [row["extra"] for row in rows] == [{"tag": tag} for tag in tags]
    for stored, talk in zip(pq.read_table(path).to_pylist(), talks, strict=True):
        assert stored["sha256"] == canonical_sha256(expected(format, talk))
        assert (stored["start"] is None) == (stored["length"] is None) == (container != "jsonl")


# ---------------------------------------------------------------- mapping


def test_named_columns_become_turns_and_the_rest_is_kept(tmp_path: Path) -> None:
    records = [{"s": "Be short.", "q": "Why?", "a": "So.", "x": 1}, {"s": "", "q": "Who?", "a": "I.", "x": 2}]
    mapping = {"prompt": "q", "answer": "a", "system": "s"}
    for upload in (jsonl(records), write_json(records), write_csv(records), write_parquet(records)):
        report = run(upload, tmp_path / "rows.parquet", mapping=mapping)
        assert (report["format"], report["columns"]) == ("mapped", ["x"])
        first, second = rows_of(tmp_path / "rows.parquet")
        assert first["messages"] == [turn("system", "Be short."), turn("user", "Why?"), turn("assistant", "So.")]
        assert second["messages"] == [turn("user", "Who?"), turn("assistant", "I.")]


def test_a_mapping_wins_over_known_columns(tmp_path: Path) -> None:
    record = {"prompt": "p", "completion": "c", "q": "Why?", "a": "So."}
    report = run(jsonl([record]), tmp_path / "rows.parquet", mapping=MAPPING)
    assert (report["format"], report["columns"]) == ("mapped", ["prompt", "completion"])


@pytest.mark.parametrize("value", [None, 3, ["x"]])
def test_a_mapped_column_must_be_text(value: Any, tmp_path: Path) -> None:
    report = run(jsonl([{"q": "Why?", "a": value}]), tmp_path / "rows.parquet", mapping=MAPPING)
    assert "'a' must be a string" in report["errors"][0]["reason"]
    report = run(jsonl([{"q": "Why?"}]), tmp_path / "rows.parquet", mapping=MAPPING)
    assert report["errors"][0]["reason"] == "has no 'a'"


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_table_without_the_columns_is_refused_at_its_header(write: Any, tmp_path: Path) -> None:
    upload = write([{"question": "Why?", "a": "So."}])
    for changed, missing in (({"mapping": MAPPING}, "'q'"), ({"format": "alpaca"}, "'instruction'"), ({}, "messages:")):
        report = run(upload, tmp_path / "rows.parquet", **changed)
        assert report["code"] == "format_not_recognised"
        assert "'question', 'a'" in report["detail"]
        assert missing in report["detail"]


# ---------------------------------------------------------------- a JSON array


def test_an_array_is_read_element_by_element(tmp_path: Path) -> None:
    """Elements far larger than what is read at a time, between space, and of any form inside."""
    records = [chat("x" * size, extra=[1.5e3, -2, '[{"', {"a": "]"}, None, True]) for size in (1, 700_000, 3, 10)]
    upload = b" \n [\n" + b" ,\n".join(json.dumps(record).encode() for record in records) + b"\n ]\n "
    for chunk in (1000, 1 << 16):
        assert run(upload, tmp_path / "rows.parquet", chunk=chunk)["rows"] == 4
        assert rows_of(tmp_path / "rows.parquet")[1]["messages"][0]["content"] == "x" * 700_000


def test_bad_elements_are_named_by_their_row(tmp_path: Path) -> None:
    good = json.dumps(chat())
    upload = f'[{good}, 3, {{"messages": [], "messages": []}}, {good[:-1]}, "a": NaN}}, {good}, {{}}]'.encode()
    report = run(upload, tmp_path / "rows.parquet")
    assert (report["outcome"], report["bad"]) == ("invalid", 4)
    assert [error["pointer"] for error in report["errors"]] == ["row:1", "row:2", "row:3", "row:5"]
    assert [error["reason"].split(",")[0][:30] for error in report["errors"]] == [
        "a record must be a JSON object",
        "the key 'messages' occurs twic",
        "holds NaN",
        "has no 'messages'",
    ]


GOOD = json.dumps(chat()).encode()


@pytest.mark.parametrize(
    ("upload", "code"),
    [
        (b"[]", "dataset_empty"),
        (b"[ ] \n", "dataset_empty"),
        (b"[", "json_invalid"),
        (b"[" + GOOD, "json_invalid"),
        (b"[" + GOOD + b",", "json_invalid"),
        (b"[" + GOOD + b",]", "json_invalid"),
        (b"[," + GOOD + b"]", "json_invalid"),
        (b"[" + GOOD + b" " + GOOD + b"]", "json_invalid"),
        (b"[" + GOOD + b"] x", "json_invalid"),
        (b"[" + GOOD + b"]" + GOOD, "json_invalid"),
        (b"[" + GOOD[:-4], "json_invalid"),
        (b"[" + GOOD[:30] + b"\xff" + GOOD[30:] + b"]", "json_invalid"),
        (b"[" + GOOD + b', {"a" 1}]', "json_invalid"),
        (b"[" + b"[" * 100_000, "json_invalid"),
        (b"[" + GOOD[:-1] + b', "x": "' + b"y" * MIB + b'"}]', "line_too_long"),
        (b'["' + b"y" * (3 * MIB), "line_too_long"),
    ],
)
def test_a_broken_array_is_refused_whole(upload: bytes, code: str, tmp_path: Path) -> None:
    for chunk in (333, 1 << 20):
        report = run(upload, tmp_path / "rows.parquet", chunk=chunk)
        assert report["code"] == code, report


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    ("upload", "code", "said"),
    [
        (b"prompt;completion\na;b\n", "format_not_recognised", "not parted by commas"),
        (b"prompt,completion,prompt\na,b,c\n", "csv_invalid", "'prompt' twice"),
        (b'prompt,completion\n"a"x,b\n', "csv_invalid", "line 2"),
        (b'prompt,completion\na,"b\n\n', "csv_invalid", "line 2"),
        (b"prompt,completion\na,b\nc,d\xe9\n", "csv_invalid", "Line 3 is not UTF-8"),
        (b'prompt,completion\na,"' + b"x\n" * MIB, "line_too_long", "quote that is not closed"),
        (b"prompt,completion\na," + b"x" * (2 * MIB), "line_too_long", "line 2"),
        (b"prompt,completion\r\n", "dataset_empty", "no record"),
        (b"\x00\x01\x02\xff\xfe" * 50, "format_not_recognised", "nor CSV in UTF-8"),
        (b"a\0b,c\n", "format_not_recognised", "not a text file"),
    ],
)
def test_a_broken_table_is_refused_whole(upload: bytes, code: str, said: str, tmp_path: Path) -> None:
    report = run(upload, tmp_path / "rows.parquet")
    assert report["code"] == code, report
    assert said in report["detail"]


def test_bad_rows_of_a_table_are_named_by_the_line_they_begin_on(tmp_path: Path) -> None:
    upload = (
        'messages,n\r\n"[\n]",1\r\n\r\n"{",2\r\n"[]",3,4\r\n"[{""role"": ""assistant"", ""content"": ""\0""}]",5\r\n'
    )
    report = run(upload.encode(), tmp_path / "rows.parquet")
    assert [(error["pointer"], error["reason"][:38]) for error in report["errors"]] == [
        ("line:2", "has no assistant turn, so there is not"),
        ("line:5", "'messages' is not a JSON list of turns"),
        ("line:6", "has 3 fields, and the header has 2"),
        ("line:7", "holds a NUL character (\\u0000), which "),
    ]


def test_cells_stay_text(tmp_path: Path) -> None:
    run(b"prompt,completion,n\n007,=1+1, 1.50\n", tmp_path / "rows.parquet")
    (row,) = rows_of(tmp_path / "rows.parquet")
    assert row["messages"] == [turn("user", "007"), turn("assistant", "=1+1")]
    assert row["extra"] == {"n": " 1.50"}


# ---------------------------------------------------------------- Parquet


def test_types_that_json_has_not_become_text(tmp_path: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    columns = {
        "prompt": pa.array(["a", "b"]).dictionary_encode(),
        "completion": pa.array([b"c", b"d"]),
        "day": [datetime.date(2026, 1, 2), None],
        "at": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone)] * 2, pa.timestamp("us", "Europe/Berlin")),
        "local": [datetime.datetime(2026, 1, 2, 3, 4, 5)] * 2,
        "price": [decimal.Decimal("1.50"), decimal.Decimal("-2.25")],
        "nested": [[{"x": datetime.date(2026, 1, 2), "y": 1}], []],
        "half": pa.array([1.5, None], pa.float32()),
        "big": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    report = run(file.getvalue(), tmp_path / "rows.parquet")
    assert report["outcome"] == "parsed", report
    first, second = rows_of(tmp_path / "rows.parquet")
    assert first["messages"] == [turn("user", "a"), turn("assistant", "c")]
    assert first["extra"] == {
        "day": "2026-01-02",
        "at": "2026-01-02 01:04:05.000006Z",
        "local": "2026-01-02 03:04:05.000000",
        "price": "1.50",
        "nested": [{"x": "2026-01-02", "y": 1}],
        "half": 1.5,
        "big": 2**64 - 1,
    }
    assert (second["extra"]["day"], second["extra"]["nested"], second["extra"]["half"]) == (None, [], None)


MAPS = pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))
SPANS = pa.array([datetime.timedelta(1)] * 3)


def parquet_of(columns: Record) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def test_extra_columns_without_a_form_are_left_out_and_told(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a"] * 3,
        "completion": ["b"] * 3,
        "by_name": MAPS,
        "span": SPANS,
        "id": pa.array([uuid.UUID(int=7).bytes, None, uuid.UUID(int=8).bytes], pa.uuid()),
        "score": [1.5, math.nan, None],
        "scores": [[1.0], [], [math.inf, 2.0]],
        "image": pa.array([b"\xff\xfe", b"plain", None]),
        "n": [1, 2, 3],
    }
    report = run(parquet_of(columns), tmp_path / "rows.parquet")
    assert report["outcome"] == "parsed", report
    assert report["columns"] == ["id", "score", "scores", "image", "n"]
    assert [row["extra"] for row in rows_of(tmp_path / "rows.parquet")] == [
        {"id": str(uuid.UUID(int=7)), "score": 1.5, "scores": [1.0], "image": None, "n": 1},
        {"id": None, "score": None, "scores": [], "image": "plain", "n": 2},
        {"id": str(uuid.UUID(int=8)), "score": None, "scores": [None, 2.0], "image": None, "n": 3},
    ]
    notices = {notice["kind"]: (notice["rows"], notice["first_rows"], notice["found"]) for notice in report["notices"]}
    assert notices == {
        "left_out_columns": (0, [], {"by_name": 1, "span": 1}),
        "left_out_values": (3, [0, 1, 2], {"image": 1, "score": 1, "scores": 1}),
    }


@pytest.mark.parametrize(
    ("column", "said"),
    [(MAPS, "map<"), (SPANS, "duration"), (pa.array([b"\xff\xfe"] * 3), "not UTF-8")],
)
def test_columns_of_messages_need_a_form(column: Any, said: str, tmp_path: Path) -> None:
    for name, other in (("prompt", "completion"), ("completion", "prompt")):
        report = run(parquet_of({name: column, other: ["b"] * 3}), tmp_path / "rows.parquet")
        assert report["code"] == "parquet_type_unsupported", report
        assert f"'{name}'" in report["detail"]
        assert said in report["detail"]


def parquet_said_to_be(table: Any, schema: Any) -> bytes:
    """A file whose stored Arrow schema says so: pyarrow reads nested views that it does not write."""
    file = io.BytesIO()
    stored = {b"ARROW:schema": base64.b64encode(schema.serialize().to_pybytes())}
    pq.write_table(table.replace_schema_metadata(stored), file, store_schema=False)
    return file.getvalue()


def test_views_of_texts_and_lists_are_texts_and_lists(tmp_path: Path) -> None:
    turns = [[turn("user", f"Question {number}?"), turn("assistant", f"Answer {number}.")] for number in range(300)]
    table = pa.table({"messages": turns, "source": ["a", None, "c"] * 100, "tags": [["a"], ["b", "c"], None] * 100})
    struct = pa.struct([("content", pa.string_view()), ("role", pa.string_view())])
    lists = (pa.list_view, pa.large_list_view, pa.list_, pa.large_list)
    for messages, tags in zip(lists, reversed(lists), strict=True):
        fields = [("messages", messages(struct)), ("source", pa.string_view()), ("tags", tags(pa.string()))]
        upload = parquet_said_to_be(table, pa.schema(fields))
        report = run(upload, tmp_path / "rows.parquet")
        assert report["outcome"] == "parsed", report
        rows = rows_of(tmp_path / "rows.parquet")
        assert [row["messages"] for row in rows] == turns
        assert [row["extra"] for row in rows[:3]] == [
            {"source": "a", "tags": ["a"]},
            {"source": None, "tags": ["b", "c"]},
            {"source": "c", "tags": None},
        ]


def test_row_groups_may_be_empty(tmp_path: Path) -> None:
    schema = pa.schema([("prompt", pa.string()), ("completion", pa.string())])
    for groups in ([0, 2, 0, 1], [0], []):
        file = io.BytesIO()
        with pq.ParquetWriter(file, schema) as writer:
            for rows in groups:
                writer.write_table(pa.table({"prompt": ["a"] * rows, "completion": ["b"] * rows}, schema))
        report = run(file.getvalue(), tmp_path / "rows.parquet")
        assert (report.get("rows"), report.get("code")) == ((3, None) if sum(groups) else (None, "dataset_empty"))


def test_bad_rows_of_parquet_are_named_by_their_row(tmp_path: Path) -> None:
    upload = write_parquet(
        [
            {"prompt": "a", "completion": "b", "f": 1.0},
            {"prompt": None, "completion": "b", "f": 1.0},
            {"prompt": "a\0", "completion": "b", "f": 1.0},
        ]
    )
    report = run(upload, tmp_path / "rows.parquet")
    assert [(error["pointer"], error["reason"][:30]) for error in report["errors"]] == [
        ("row:1", "'prompt' must be a string, not"),
        ("row:2", "holds a NUL character (\\u0000)"),
    ]


def test_turns_lack_the_fields_that_are_null(tmp_path: Path) -> None:
    talk = [turn("user", "a") | {"name": None}, turn("assistant", "b") | {"name": "Ann"}]
    report = run(write_parquet([{"messages": talk}]), tmp_path / "rows.parquet")
    assert report["statistics"]["ignored_turn_keys"] == {"name": 1}


def test_a_row_group_of_any_size_is_read_in_batches(tmp_path: Path) -> None:
    upload = write_parquet([chat(f"Question {number}?") for number in range(5000)], row_group_size=5000)
    assert run(upload, tmp_path / "rows.parquet")["rows"] == 5000


# ---------------------------------------------------------------- zstd


def test_frames_of_zstd_and_empty_ones_are_one_file(tmp_path: Path) -> None:
    skippable = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd"
    data = skippable + zstd.compress(chats(30)) + zstd.compress(b"") + skippable + zstd.compress(chats(12))
    for chunk in (1, 13, 1 << 16):
        report = run(data, tmp_path / "rows.parquet", chunk=chunk)
        assert (report["rows"], report["encoding"]) == (42, "zstd")


def test_damaged_and_cut_zstd_are_said_so(tmp_path: Path) -> None:
    options = {zstd.CompressionParameter.checksum_flag: 1}
    data = zstd.compress(chats(200), options=options)
    for cut in (1, 9, 100):
        assert run(data[:-cut], tmp_path / "rows.parquet")["code"] == "zstd_truncated"
    assert run(data[:-1] + b"\0", tmp_path / "rows.parquet")["code"] == "zstd_corrupt"
    assert run(data + b"junk", tmp_path / "rows.parquet")["code"] == "zstd_corrupt"
    assert run(chats(3), tmp_path / "rows.parquet", encoding="zstd")["code"] == "zstd_corrupt"


def test_zstd_has_the_caps_of_gzip(tmp_path: Path) -> None:
    bomb = zstd.compress((b" " * 999 + b"\n") * (200 * MIB // 1000), 3)
    assert len(bomb) < 40_000
    report = run(bomb, tmp_path / "rows.parquet", max_text_bytes=10**12)
    assert (report["code"], report["status"]) == ("decompression_limit", 413)
    report = run(zstd.compress(chats(2000)), tmp_path / "rows.parquet", max_text_bytes=100_000)
    assert report["code"] == "decompression_limit"


def test_a_window_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    # A frame header that declares a window of 2 GiB, and one empty last block.
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    report = run(frame, tmp_path / "rows.parquet")
    assert report["code"] == "decompression_limit"
    assert "window" in report["detail"]
