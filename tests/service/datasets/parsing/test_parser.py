"""What the parser makes of bytes: run in this process, its Parquet read back by the store's own reader."""

import itertools
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.contract.spec import ROWS_COLUMNS
from service.datasets.parsing import statistics
from service.datasets.parsing.batch import batch_of_samples, batch_of_texts
from service.datasets.parsing.records import read_record
from service.datasets.parsing.strict_json import RecordError, parse_record
from tests.support.dataset_records import chat, chats, gzipped, jsonl, turn
from tests.support.examples import examples
from tests.support.parser_runs import MIB, canonical_sha256, rows_of, run, run_chunks

# ---------------------------------------------------------------- round trips of the four formats

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
key = text.filter(lambda name: name not in {"messages", "conversations", "instruction", "input", "output"}).filter(
    lambda name: name not in {"prompt", "completion"}
)
value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(text, children, max_size=3),
    max_leaves=6,
)
extra = st.dictionaries(key, value, max_size=4)
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), text), max_size=4)


@st.composite
def messages_record(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
    messages = [turn(role, content) for role, content in draw(turns)] + [turn("assistant", draw(text))]
    columns = draw(extra)
    return {**columns, "messages": messages}, messages, columns


@st.composite
def sharegpt_record(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
    messages = [turn(role, content) for role, content in draw(turns)] + [turn("assistant", draw(text))]
    columns = draw(extra)
    conversations = [{"from": names[message["role"]], "value": message["content"]} for message in messages]
    return {"conversations": conversations, **columns}, messages, columns


@st.composite
def alpaca_record(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
    instruction, given_input, output, columns = draw(text), draw(st.none() | text), draw(text), draw(extra)
    record = {"instruction": instruction, "output": output, **columns}
    if given_input is not None or draw(st.booleans()):
        record["input"] = given_input
    prompt = instruction + "\n\n" + given_input if given_input else instruction
    return record, [turn("user", prompt), turn("assistant", output)], columns


@st.composite
def prompt_completion_record(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
    prompt, completion, columns = draw(text), draw(text), draw(extra)
    record = {**columns, "prompt": prompt, "completion": completion}
    return record, [turn("user", prompt), turn("assistant", completion)], columns


FORMATS = {
    "messages": messages_record(),
    "alpaca": alpaca_record(),
    "sharegpt": sharegpt_record(),
    "prompt_completion": prompt_completion_record(),
}


@pytest.mark.parametrize("format", FORMATS)
@examples(60)
@given(data=st.data())
def test_every_record_comes_back_as_it_was(format: str, data: st.DataObject, tmp_path: Path) -> None:
    records = data.draw(st.lists(FORMATS[format], min_size=1, max_size=5))
    escaped = data.draw(st.booleans(), label="ASCII with escapes")
    newline = data.draw(st.sampled_from(["\n", "\r\n", "\n\n \n"]))
    lines = [json.dumps(record, ensure_ascii=escaped) for record, _, _ in records]
    upload = newline.join(lines).encode() + data.draw(st.sampled_from([b"", newline.encode()]))
    bom = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    compressed = data.draw(st.booleans())
    upload = bom + upload
    path = tmp_path / "rows.parquet"

    sent = gzipped(upload) if compressed else upload
    report = run(sent, path, chunk=data.draw(st.sampled_from([1, 3, 17, 1 << 16])))

    assert report["outcome"] == "parsed"
    assert report["format"] == format
    assert report["encoding"] == ("gzip" if compressed else "identity")
    assert report["rows"] == len(records)
    seen = rows_of(path)
    assert [row["row"] for row in seen] == list(range(len(records)))
    assert [row["messages"] for row in seen] == [messages for _, messages, _ in records]
    assert [row["extra"] for row in seen] == [columns for _, _, columns in records]
    assert set(report["columns"]) == {name for _, _, columns in records for name in columns}

    table = pq.read_table(path).to_pylist()
    for stored, (record, messages, _) in zip(table, records, strict=True):
        assert stored["sha256"] == canonical_sha256(messages)
        assert json.loads(upload[stored["start"] : stored["start"] + stored["length"]]) == record


def test_the_columns_are_the_contracts(tmp_path: Path) -> None:
    run(chats(3), tmp_path / "rows.parquet")
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert tuple(file.schema_arrow.names) == ROWS_COLUMNS
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_integers_and_the_order_of_columns_are_kept_exactly(tmp_path: Path) -> None:
    huge = 12345678901234567890123456789
    report = run(jsonl([chat(z=huge, a=2**63, m={"y": 1, "b": 2})]), tmp_path / "rows.parquet")
    assert report["columns"] == ["z", "a", "m"]
    (row,) = rows_of(tmp_path / "rows.parquet")
    assert row["extra"] == {"z": huge, "a": 2**63, "m": {"y": 1, "b": 2}}
    assert list(row["extra"]["m"]) == ["y", "b"]


def test_bidi_and_zero_width_characters_are_kept(tmp_path: Path) -> None:
    trap = "a\u202eb\u200bc\ufeffd\u2028e\u0085f"
    assert run(jsonl([chat(trap, trap)]), tmp_path / "rows.parquet")["outcome"] == "parsed"
    (row,) = rows_of(tmp_path / "rows.parquet")
    assert [message["content"] for message in row["messages"]] == [trap, trap]


def test_keys_of_turns_that_no_audit_uses_are_counted(tmp_path: Path) -> None:
    record = {"messages": [turn("user", "a") | {"name": "Ann"}, turn("assistant", "b") | {"weight": 1}]}
    report = run(jsonl([record, record]), tmp_path / "rows.parquet")
    assert report["statistics"]["ignored_turn_keys"] == {"name": 2, "weight": 2}


def test_a_record_with_a_prompt_column_beside_messages_is_messages(tmp_path: Path) -> None:
    report = run(jsonl([{"prompt": "Which tea?", **chat(), "prompt_id": "7"}]), tmp_path / "rows.parquet")
    assert (report["format"], report["columns"]) == ("messages", ["prompt", "prompt_id"])


# ---------------------------------------------------------------- bad lines

good = json.dumps(chat()).encode()
answer = '{"role": "assistant", "content": "b"}'
BAD_LINES = {
    "broken": (b'{"messages": [', "not valid JSON"),
    "trailing": (good + b" x", "not valid JSON"),
    "two records": (good + good, "not valid JSON"),
    "array": (b"[1]", "must be a JSON object, this is an array"),
    "string": (b'"text"', "must be a JSON object, this is a string"),
    "null": (b"null", "must be a JSON object, this is null"),
    "not UTF-8": (good.replace(b"tea", b"t\xe9a"), "not UTF-8 at byte"),
    "surrogates in UTF-8": (good.replace(b"tea", b"\xed\xa0\x80"), "not UTF-8 at byte"),
    "NUL byte": (good.replace(b"tea", b"t\0a"), "NUL"),
    "NUL escape": (good.replace(b"tea", b"t\\u0000a"), "NUL"),
    "NUL in a column": (json.dumps(chat(a=[{"b": "\0"}])).encode(), "NUL"),
    "NUL in a column's name": (json.dumps(chat(**{"a\0": 1})).encode(), "NUL"),
    "lone surrogate": (good.replace(b"tea", b"\\ud800"), "lone surrogate"),
    "lone low surrogate": (good.replace(b"tea", b"\\udc00x"), "lone surrogate"),
    "NaN": (good[:-1] + b', "a": NaN}', "NaN"),
    "Infinity": (good[:-1] + b', "a": [-Infinity]}', "-Infinity"),
    "1e999": (good[:-1] + b', "a": 1e999}', "too large"),
    "5000 digits": (good[:-1] + b', "a": ' + b"9" * 5000 + b"}", "too large|more than 4300 digits"),
    "duplicate key": (good[:-1] + b', "messages": []}', "'messages' occurs twice"),
    "duplicate inner key": (good[:-1] + b', "a": {"b": 1, "b": 1}}', "'b' occurs twice"),
    "deep": (good[:-1] + b', "a": ' + b"[" * 65 + b"]" * 65 + b"}", "nested more than 64 levels"),
    "very deep": (good[:-1] + b', "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 64 levels"),
    "control character": (good.replace(b"tea", b"t\x01a"), "not valid JSON"),
    "messages missing": (b'{"instruction": "a", "output": "b"}', "has no 'messages'"),
    "messages a string": (b'{"messages": "a"}', "'messages' is not a JSON list of turns: not valid JSON"),
    "no turn": (b'{"messages": []}', "no assistant turn"),
    "turn a string": (b'{"messages": ["a"]}', r"'messages\[0\]' must be an object"),
    "no role": (b'{"messages": [{"content": "a"}]}', r"'messages\[0\]' has no 'role'"),
    "no content": (b'{"messages": [{"role": "assistant"}]}', r"'messages\[0\]' has no 'content'"),
    "content null": (b'{"messages": [{"role": "assistant", "content": null}]}', "must be a string, not null"),
    "content a number": (b'{"messages": [{"role": "assistant", "content": 1}]}', "must be a string, not a number"),
    "content a boolean": (b'{"messages": [{"role": "assistant", "content": true}]}', "not a boolean"),
    "unknown role": (b'{"messages": [{"role": "robot", "content": "a"}]}', "must be one of system, user"),
    "no assistant": (b'{"messages": [{"role": "user", "content": "a"}]}', "no assistant turn"),
    "assistant not last": (
        f'{{"messages": [{answer}, {{"role": "user", "content": "a"}}]}}'.encode(),
        "last turn must be the assistant's",
    ),
    "long column name": (json.dumps(chat(**{"k" * 257: 1})).encode(), "longer than 256 characters"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_with_its_reason(name: str, tmp_path: Path) -> None:
    line, reason = BAD_LINES[name]
    report = run(b"\r\n\n".join([good, good, line, good]), tmp_path / "rows.parquet")
    assert report["outcome"] == "invalid", report
    assert report["bad"] == 1
    (error,) = report["errors"]
    assert error["pointer"] == "line:5", "blank lines count"
    assert re.search(reason, error["reason"]), error["reason"]


@pytest.mark.parametrize(
    ("format", "record", "reason"),
    [
        ("alpaca", {"instruction": "a"}, "has no 'output'"),
        ("alpaca", {"instruction": "a", "output": None}, "'output' must be a string, not null"),
        ("alpaca", {"instruction": "a", "output": "b", "input": 3}, "'input' must be a string, not a number"),
        ("alpaca", {"instruction": {}, "output": "b"}, "'instruction' must be a string, not an object"),
        ("prompt_completion", {"prompt": "a"}, "has no 'completion'"),
        ("prompt_completion", {"prompt": {"text": "a"}, "completion": "b"}, "'prompt' must be a string"),
        ("sharegpt", {"conversations": [{"from": "robot", "value": "a"}]}, "must be one of human"),
        ("sharegpt", {"conversations": [{"from": "gpt"}]}, "has no 'value'"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a"}]}, "no assistant turn"),
        ("sharegpt", chat(), "has no 'conversations'"),
    ],
)
def test_a_record_of_another_form_is_a_bad_line(format: str, record: Any, reason: str, tmp_path: Path) -> None:
    report = run(jsonl([record]), tmp_path / "rows.parquet", format=format)
    assert report["outcome"] == "invalid"
    assert reason in report["errors"][0]["reason"]


@given(junk=st.binary(min_size=1, max_size=200))
@examples(150)
def test_no_bytes_break_the_parser(junk: bytes, tmp_path: Path) -> None:
    for upload in (junk, good + b"\n" + junk, gzipped(junk), gzipped(chats(3))[: -len(junk) % 40] + junk):
        assert run(upload, tmp_path / "rows.parquet")["outcome"] in {"parsed", "invalid", "refused"}


def test_the_first_hundred_bad_lines_are_listed_and_all_counted(tmp_path: Path) -> None:
    report = run(good + b"\n" + b"{}\n" * 250 + good, tmp_path / "rows.parquet")
    assert report["bad"] == 250
    assert [error["pointer"] for error in report["errors"]] == [f"line:{number}" for number in range(2, 102)]


def test_no_reason_quotes_a_value(tmp_path: Path) -> None:
    secret = "swordfish"
    for name, (line, _) in BAD_LINES.items():
        marked = line.replace(b"tea", b"tea " + secret.encode()).replace(b"text", secret.encode())
        report = run(good + b"\n" + marked, tmp_path / "rows.parquet")
        assert secret not in json.dumps(report), name


# ---------------------------------------------------------------- whole uploads refused


@pytest.mark.parametrize("data", [b"", b"\n\r\n  \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", gzipped(b""), gzipped(b"\n")])
def test_an_upload_without_a_record_is_empty(data: bytes, tmp_path: Path) -> None:
    assert run(data, tmp_path / "rows.parquet")["code"] == "dataset_empty"


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b'{"question": "swordfish", "answer": 1}', "an object with the keys 'question', 'answer'"),
        (b"{}", "an object without keys"),
        (b"3", "a number"),
        (gzipped(b"PAR1\x15\x04"), "compressed Parquet"),
        (b"PK\x03\x04abcdefgh", "a ZIP archive"),
        ("\ufeff{}".encode("utf-16-le"), "UTF-16 text"),
        (gzipped(gzipped(good)), "gzip inside another"),
    ],
)
def test_what_is_no_known_format_is_named_by_what_it_is(data: bytes, seen: str, tmp_path: Path) -> None:
    report = run(data, tmp_path / "rows.parquet")
    assert (report["outcome"], report["code"]) == ("refused", "format_not_recognised")
    assert seen in report["detail"]
    assert "swordfish" not in report["detail"]
    if "object" in seen:
        for format in ("messages", "alpaca", "sharegpt", "prompt_completion"):
            assert format in report["detail"]


def test_a_key_cannot_flood_the_answer(tmp_path: Path) -> None:
    record = {f"{number}\u202e" + "k" * 1000: 1 for number in range(500)}
    detail = run(jsonl([record]), tmp_path / "rows.parquet")["detail"]
    assert len(detail) < 2500
    assert "\u202e" not in detail


@pytest.mark.parametrize("cut", [1, 9, 40, 200])
def test_truncated_gzip_is_said_so(cut: int, tmp_path: Path) -> None:
    assert run(gzipped(chats(200))[:-cut], tmp_path / "rows.parquet")["code"] == "gzip_truncated"


def test_damaged_gzip_is_said_so(tmp_path: Path) -> None:
    data = bytearray(gzipped(chats(200)))
    data[-6] ^= 1  # in the checksum
    assert run(bytes(data), tmp_path / "rows.parquet")["code"] == "gzip_corrupt"
    assert run(gzipped(chats(9)) + b"junk", tmp_path / "rows.parquet")["code"] == "gzip_corrupt"


def test_several_gzip_members_and_zero_padding_are_one_file(tmp_path: Path) -> None:
    data = gzipped(chats(30)) + gzipped(b"") + gzipped(chats(12)) + b"\0" * 700
    assert run(data, tmp_path / "rows.parquet", chunk=13)["rows"] == 42


def test_a_body_declared_as_gzip_must_be_it(tmp_path: Path) -> None:
    assert run(chats(3), tmp_path / "rows.parquet", encoding="gzip")["code"] == "gzip_corrupt"
    assert run(gzipped(chats(3)), tmp_path / "rows.parquet", encoding="gzip")["rows"] == 3


def lines_bomb(total: int) -> Iterator[bytes]:
    """gzip of `total` bytes: one valid line again and again."""
    encoder = zlib.compressobj(9, wbits=31)
    block = good + b" " * 20_000 + b"\n"
    for _ in range(total // len(block) + 1):
        yield encoder.compress(block)
    yield encoder.flush()


def test_a_bomb_of_short_lines_ends_at_the_ratio(tmp_path: Path) -> None:
    bomb = b"".join(lines_bomb(40 * MIB))
    assert len(bomb) < MIB
    report = run(bomb, tmp_path / "rows.parquet", max_rows=10**9, max_ratio=50)
    assert (report["code"], report["status"]) == ("decompression_limit", 413)


def test_below_ten_mebibytes_a_high_ratio_is_no_bomb(tmp_path: Path) -> None:
    text = good + b" " * (MIB - 1000) + b"\n"
    assert run(gzipped(text * 9), tmp_path / "rows.parquet", max_ratio=2)["rows"] == 9


def test_decompressed_bytes_have_a_cap_of_their_own(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(2000).hex()
    data = gzipped(jsonl([chat(noise)] * 600))
    report = run(data, tmp_path / "rows.parquet", max_text_bytes=2 * MIB)
    assert (report["code"], report["status"]) == ("decompression_limit", 413)


def test_a_line_that_is_too_long_stops_at_once(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield good + b"\n"
        while True:
            taken += 1 << 16
            assert taken < 3 * MIB, "it must not read on"
            yield b"x" * (1 << 16)

    report = run_chunks(endless(), tmp_path / "rows.parquet", max_text_bytes=10**9)
    assert (report["code"], report["pointer"]) == ("line_too_long", "line:2")
    exact = json.dumps(chat("x")).encode()
    padded = exact[:-1] + b" " * (MIB - len(exact)) + b"}"
    assert len(padded) == MIB
    assert run(padded + b"\n", tmp_path / "rows.parquet")["outcome"] == "parsed"
    assert run(b" " + padded + b"\n", tmp_path / "rows.parquet")["code"] == "line_too_long"


def test_rows_and_columns_have_caps(tmp_path: Path) -> None:
    assert run(chats(10), tmp_path / "rows.parquet", max_rows=10)["outcome"] == "parsed"
    report = run(chats(11), tmp_path / "rows.parquet", max_rows=10)
    assert (report["code"], report["pointer"]) == ("too_many_rows", "line:11")
    many = jsonl(chat(**{f"c{number}": 1}) for number in range(1001))
    report = run(many, tmp_path / "rows.parquet")
    assert report["errors"][0]["pointer"] == "line:1001"


# ---------------------------------------------------------------- statistics


def test_statistics_against_a_plain_count(tmp_path: Path) -> None:
    source = random.Random(5)
    records = []
    for number in range(400):
        middle = [turn("user", "y"), turn("assistant", "z")] * source.randrange(3)
        messages = [turn("system", "s")] * source.randrange(2) + middle
        messages += [turn("user", "q" * source.randrange(50)), turn("assistant", "é" * source.randrange(300))]
        record: dict[str, Any] = {"messages": messages, "id": number, "group": source.choice(["a", "b", "c"])}
        if number % 4 == 0:
            record["mixed"] = source.choice([True, 1, 1.0, "1", None])
        records.append(record)
    records += records[:37]
    statistics = run(jsonl(records), tmp_path / "rows.parquet")["statistics"]

    distinct = {orjson.dumps(record["messages"]) for record in records}
    assert statistics["rows"] == 437
    assert statistics["exact_duplicates"] == 437 - len(distinct)
    assert statistics["roles"] == Counter(message["role"] for record in records for message in record["messages"])
    assert {entry["turns"]: entry["rows"] for entry in statistics["turns"]} == Counter(
        len(record["messages"]) for record in records
    )
    answers = [len(record["messages"][-1]["content"]) for record in records]
    prompts = [sum(len(message["content"]) for message in record["messages"][:-1]) for record in records]
    for name, lengths in (("answer_characters", answers), ("prompt_characters", prompts)):
        entry = statistics[name]
        assert (entry["min"], entry["max"]) == (min(lengths), max(lengths))
        assert entry["mean"] == pytest.approx(sum(lengths) / 437)
        edges, counts = entry["histogram"]["edges"], entry["histogram"]["counts"]
        assert len(edges) == len(counts) + 1
        assert counts == [sum(low <= length < high for length in lengths) for low, high in itertools.pairwise(edges)]
        assert sum(counts) == 437
    columns = {column["name"]: column for column in statistics["columns"]}
    assert columns["id"] == {"name": "id", "rows": 437, "distinct": None, "values": None}
    groups = Counter(record["group"] for record in records)
    assert columns["group"]["values"] == [
        {"value": name, "rows": count} for name, count in sorted(groups.items(), key=lambda item: -item[1])
    ]
    mixed = Counter(json.dumps(record["mixed"]) for record in records if "mixed" in record)
    assert {json.dumps(entry["value"]): entry["rows"] for entry in columns["mixed"]["values"]} == mixed


def test_the_number_of_counted_values_is_bounded(tmp_path: Path) -> None:
    records = [chat(short=f"v{number % 200}", many=number % 201, long="x" * 101, nested=[1]) for number in range(402)]
    columns = {
        column["name"]: column for column in run(jsonl(records), tmp_path / "rows.parquet")["statistics"]["columns"]
    }
    assert columns["short"]["distinct"] == 200
    assert len(columns["short"]["values"]) == 20
    assert columns["many"]["values"] is columns["long"]["values"] is columns["nested"]["values"] is None


def test_an_upload_can_be_read_from_any_buffer(tmp_path: Path) -> None:
    """One byte at a time gives the same rows as all at once, CRLF, blank lines and the mark included."""
    data = b"\xef\xbb\xbf\r\n" + chats(20).replace(b"\n", b"\r\n\r\n")
    run(data, tmp_path / "a.parquet", chunk=1)
    run(data, tmp_path / "b.parquet", chunk=10**6)
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


def test_duplicates_are_counted_exactly_where_digests_fill_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "HELD_DIGESTS", 100)
    records = [chat(f"Question {number % 700}?") for number in range(2000)]
    assert run(jsonl(records), tmp_path / "rows.parquet")["statistics"]["exact_duplicates"] == 1300


json_text = st.recursive(
    st.sampled_from(
        ['"a"', '"\\u0022"', '"\\""', '"\\u00e9\\""', "1", "1.5", "-0", "1e5", "true", "null", "9" * 20, '""']
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\""']), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
        )
    ),
    max_leaves=6,
)


@given(columns=st.lists(st.tuples(st.sampled_from(["x", "y", "messages", "\\u0078"]), json_text), max_size=3))
@example(columns=[("x", '"\\u0022\\u0022"'), ("y", "1"), ("y", "2")])  # as many marks as there are written again
@examples(400)
def test_the_fast_way_takes_nothing_that_the_strict_way_refuses_or_reads_otherwise(
    columns: list[tuple[str, str]],
) -> None:
    text = (good[:-1].decode() + "".join(f', "{name}": {value}' for name, value in columns) + "}").encode()
    fast = batch_of_texts([good, text], "messages", None)
    try:
        sample = read_record(parse_record(text), "messages")
    except RecordError:
        assert fast is None
        return
    if fast is not None:
        strict = batch_of_samples([sample])
        assert (fast.canonical[1], fast.extra_json[1]) == (strict.canonical[0], strict.extra_json[0])
