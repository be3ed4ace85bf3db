"""Lines read by Arrow: what is plainly good is taken, and just as the strict parser reads it."""

import contextlib
import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.datasets.parsing.arrow.lines import HALVINGS, LONGEST_PAUSE, ArrowLines
from service.datasets.parsing.batch import batch_of_samples
from service.datasets.parsing.columns import Columns, columns_of
from service.datasets.parsing.notices import Notices
from service.datasets.parsing.readers import jsonl as jsonl_reader
from service.datasets.parsing.readers.jsonl import Lines
from service.datasets.parsing.records import Mapping, read_record
from service.datasets.parsing.rows_writer import RowsWriter
from service.datasets.parsing.statistics import Statistics
from service.datasets.parsing.strict_json import RecordError, parse_record
from tests.support.dataset_records import jsonl, turn
from tests.support.examples import examples
from tests.support.parser_runs import run

MAPPED = Mapping("q", "a", "s")
FORMATS: dict[str, Mapping | None] = {
    "messages": None, "sharegpt": None, "alpaca": None, "prompt_completion": None, "mapped": MAPPED,
}  # fmt: skip


def everything(columns: Columns, path: Path) -> dict[str, Any]:
    """All that an upload of these rows alone would leave."""
    with path.open("wb") as file, TemporaryFile() as scratch:
        with RowsWriter(file) as writer:
            writer.add(columns, columns.digests())
        statistics, notices = Statistics(scratch), Notices()
        statistics.add(columns, columns.digests())
        notices.add(columns)
        reports = json.dumps([statistics.report(), notices.report()])
    extras = dict.fromkeys(key for extra in columns.extras for key in extra)
    return {"rows": pq.read_table(path).to_pylist(), "reports": reports, "columns": list(columns.values or extras)}


def strictly(part: Lines, format: str) -> Columns:
    """The same lines, read one by one. Raises RecordError."""
    block = part.block()
    mapping = FORMATS[format]
    batch = batch_of_samples([read_record(parse_record(text), format, mapping) for text in block.texts])
    batch.starts, batch.lengths = block.starts, list(map(len, block.texts))
    return columns_of([batch])


def taken(text: bytes, format: str, path: Path) -> list[bool]:
    """Which parts of the text Arrow's way takes, each compared with the strict way."""
    found = []
    for part, columns in ArrowLines(format, FORMATS[format]).read(Lines(4, 77, text)):
        found.append(columns is not None)
        if columns is not None:
            assert everything(columns, path) == everything(strictly(part, format), path)
    return found


# ---------------------------------------------------------------- what is plainly good is taken

odd_text = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.sampled_from('"\\/\b\f\n\r\t\x01\x1f\x7f\u200b\ufeff\u2028éß😀{}[]:, '),
    max_size=12,
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "text": odd_text,
    "group": st.sampled_from(["a", "b", ""]),
    "date": st.sampled_from(["2020-01-01", "2020-01-01T00:00:00Z", "12:30", "1e5", "null", "1"]),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "small float": st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e16, 1e22, 5e-324, 0.1]),
    "truth": st.booleans(),
    "nothing": st.none(),
}
NAMES = ["x", "y", "id", "role", "größe", "a b", ""]


@st.composite
def record(draw: st.DrawFn, format: str) -> dict[str, Any]:
    """What becomes messages, as the format has it."""
    if format in ("messages", "sharegpt"):
        role, content = ("role", "content") if format == "messages" else ("from", "value")
        roles = ["system", "user", "assistant", "tool"] if format == "messages" else ["human", "gpt", "observation"]
        last = "assistant" if format == "messages" else "gpt"
        drawn = [*draw(st.lists(st.tuples(st.sampled_from(roles), odd_text), max_size=3)), (last, draw(odd_text))]
        return {("messages" if role == "role" else "conversations"): [{role: r, content: c} for r, c in drawn]}
    if format == "alpaca":
        return {"instruction": draw(odd_text), "input": draw(odd_text | st.none()), "output": draw(odd_text)}
    if format == "prompt_completion":
        return {"prompt": draw(odd_text), "completion": draw(odd_text)}
    return {"q": draw(odd_text), "s": draw(odd_text | st.none()), "a": draw(odd_text)}


@st.composite
def plain_records(draw: st.DrawFn, format: str) -> list[dict[str, Any]]:
    """Records of one shape: the same keys in the same order, each of one type, null at times."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    kinds = {name: KINDS[draw(st.sampled_from(sorted(KINDS)))] for name in names}
    nullable = {name: draw(st.booleans()) for name in names}
    order: list[str] | None = None
    records = []
    for _ in range(draw(st.integers(1, 6))):
        made = draw(record(format))
        made |= {name: draw(st.none() | kind if nullable[name] else kind) for name, kind in kinds.items()}
        if order is None:
            order = draw(st.permutations(list(made)))
        records.append({name: made[name] for name in order})
    return records


def written(records: list[dict[str, Any]], draw: st.DrawFn) -> bytes:
    ascii_only, newline = draw(st.booleans()), draw(st.sampled_from([b"\n", b"\r\n"]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]))
    texts = [json.dumps(record, ensure_ascii=ascii_only, separators=separators).encode() for record in records]
    return newline.join(texts) + draw(st.sampled_from([b"", newline]))


@pytest.mark.parametrize("format", FORMATS)
@examples(100)
@given(data=st.data())
def test_lines_of_one_shape_are_taken_whole(format: str, data: st.DataObject, tmp_path: Path) -> None:
    records = data.draw(plain_records(format))
    assert taken(written(records, data.draw), format, tmp_path / "rows.parquet") == [True]


@pytest.mark.parametrize("format", FORMATS)
def test_keys_may_be_missing(format: str, tmp_path: Path) -> None:
    needed = {
        "messages": {"messages": [turn("user", "a"), turn("assistant", "b")]},
        "sharegpt": {"conversations": [{"from": "gpt", "value": "b"}]},
        "alpaca": {"instruction": "a", "output": "b"},
        "prompt_completion": {"prompt": "a", "completion": "b"},
        "mapped": {"q": "a", "a": "b"},
    }[format]
    records = [needed, {**needed, "y": 1.5}, {"x": "t", **needed, "y": None, "z": 1}, {"x": None, **needed, "z": 2}]
    records += [{**needed, "input": "more", "s": "sys"}] if format in ("alpaca", "mapped") else []
    assert taken(jsonl([*records, needed]), format, tmp_path / "rows.parquet") == [True]


# ---------------------------------------------------------------- the rest is read as the strict parser reads it

ODD_VALUES = [
    "null", "true", "1", "-0", "1.5", "1.0", "1e400", "NaN", "-Infinity", "9223372036854775808", "01", '"1"', '"x"',
    '""', "[]", "{}", '["x"]', '{"x": 1}', '{"x": 1, "x": 2}', '"\\u0000"', '"\\ud800"', '"\\u0022"', '"\\\\"', "",
    '"2020-01-01"', '"\\u0078"',
]  # fmt: skip
ODD_KEYS = ['"x"', '"y"', '"\\u0078"', '"messages"', '"role"', '"prompt"', '"input"', '"s"', '"conversations"', '""']
ODD_BYTES = [
    b"\n", b"\r", b"\r\n", b"}{", b"}\n{", b"{}", b"null", b"\0", b" ", b",", b'"', b"\\", b"[", b"]", b"{", b"}", b"1",
    b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\u0000", b"\\udc00", b"/**/", b"NaN", b'"x":1,', b'"x":1,"x":1,',
]  # fmt: skip


@st.composite
def odd_text_of_lines(draw: st.DrawFn, format: str) -> bytes:
    """Lines of one shape, some of them changed: a member more or elsewhere, or bytes put in or taken out anywhere."""
    texts = written(draw(plain_records(format)), draw).split(b"\n")
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(texts) - 1))
        text, change = texts[index], draw(st.sampled_from(["member", "bytes", "cut", "swap", "rename"]))
        if change == "member":
            member = f"{draw(st.sampled_from(ODD_KEYS))}: {draw(st.sampled_from(ODD_VALUES))}".encode()
            texts[index] = text.replace(b"{", b"{" + member + b",", draw(st.sampled_from([1, 1, 2, -1])))
            if draw(st.booleans()):
                texts[index] = text[: text.rfind(b"}")] + b"," + member + text[text.rfind(b"}") :]
        elif change == "swap":
            with contextlib.suppress(ValueError, AttributeError):  # it may have been changed before
                members = list(json.loads(text).items())
                texts[index] = json.dumps(dict(draw(st.permutations(members)))).encode()
        elif change == "rename":
            old, new = draw(st.sampled_from(ODD_KEYS)), draw(st.sampled_from(ODD_KEYS))
            texts[index] = text.replace(old.encode(), new.encode())
        else:
            start = draw(st.integers(0, len(text)))
            end = draw(st.integers(start, min(len(text), start + 4))) if change == "cut" else start
            texts[index] = text[:start] + draw(st.sampled_from([b"", *ODD_BYTES])) + text[end:]
    return b"\n".join(texts) or b"\n"


@pytest.mark.parametrize("format", FORMATS)
@examples(300)
@given(data=st.data())
def test_what_is_taken_is_what_the_strict_parser_reads(format: str, data: st.DataObject, tmp_path: Path) -> None:
    taken(data.draw(odd_text_of_lines(format)), format, tmp_path / "rows.parquet")


MESSAGES = '"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
PLAIN = f'{{"s": "t", {MESSAGES}, "f": 0.5, "i": 7, "n": null}}'
TRAPS = {
    "two records on a line": PLAIN + PLAIN,
    "two records, and none": PLAIN + PLAIN + "\n ",
    "one record on two lines": PLAIN.replace(', "f"', ',\n"f"'),
    "records that end on the next line": PLAIN + PLAIN[:20] + "\n" + PLAIN[20:],
    "null": "null",
    "nulls": "null\nnull",
    "an array": f"[{PLAIN}]",
    "a byte order mark": "\ufeff" + PLAIN,
    "NaN": PLAIN.replace("0.5", "NaN"),
    "an infinity": PLAIN.replace("0.5", "-Infinity"),
    "a float beyond its range": PLAIN.replace("0.5", "1e400"),
    "an integer among floats": PLAIN.replace("0.5", "2"),
    "a negative zero among floats": PLAIN.replace("0.5", "-0"),
    "a huge integer among floats": PLAIN.replace("0.5", "9" * 30),
    "a float among integers": PLAIN.replace("7", "7.0"),
    "an integer above 64 bits": PLAIN.replace("7", "9223372036854775808"),
    "a text among integers": PLAIN.replace("7", '"7"'),
    "a boolean among integers": PLAIN.replace("7", "true"),
    "keys in another order": f'{{"f": 0.5, {MESSAGES}, "s": "t", "i": 7, "n": null}}',
    "keys of one length in another order": f'{{"s": "t", {MESSAGES}, "i": 7, "f": 0.5, "n": null}}',
    "a null behind its place": f'{{{MESSAGES}, "f": 0.5, "i": 7, "s": null, "n": null}}',
    "texts that look like keys": f'{{"s": "messages", "f": 0.5, {MESSAGES}, "i": 7, "n": null}}',
    "a duplicate key": PLAIN.replace("{", '{"s": "t", ', 1),
    "a duplicate null for a missing key": PLAIN.replace('"s": "t"', '"n": null'),
    "a duplicate key in a turn": PLAIN.replace('"role": "user"', '"role": "user", "role": "user"'),
    "a key of a turn": PLAIN.replace('"role": "user"', '"role": "user", "weight": 1'),
    "a nested value": PLAIN.replace("7", "[7]"),
    "deep": PLAIN.replace("7", "[" * 100 + "7" + "]" * 100),
    "no messages": '{"s": "t", "f": 0.5, "i": 7, "n": null}',
    "null messages": PLAIN.replace("[{", "null").partition("null")[0] + 'null, "f": 0.5, "i": 7, "n": null}',
    "a null turn": PLAIN.replace("[{", "[null, {"),
    "no turn": '{"s": "t", "messages": [], "f": 0.5, "i": 7, "n": null}',
    "an unknown role": PLAIN.replace("user", "robot"),
    "a null role": PLAIN.replace('"user"', "null"),
    "a null text": PLAIN.replace('"a"', "null"),
    "no text": PLAIN.replace(', "content": "a"', ""),
    "another speaker last": PLAIN.replace("assistant", "user"),
    "an escaped NUL": PLAIN.replace('"b"', '"\\u0000"'),
    "an escaped NUL in another column": PLAIN.replace('"t"', '"\\u0000"'),
    "a NUL": PLAIN.replace('"b"', '"\0"'),
    "a NUL behind the record": PLAIN + "\0}",
    "a NUL between two records": PLAIN + "\0" + PLAIN,
    "a lone surrogate": PLAIN.replace('"b"', '"\\udc00"'),
    "a control character": PLAIN.replace('"b"', '"\x01"'),
    "a comma too many": PLAIN.replace("null}", "null,}"),
    "a comment": PLAIN.replace('"n"', '/**/"n"'),
    "the end is missing": PLAIN[:-1],
    "something behind it": PLAIN + " x}",
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_left_to_the_strict_parser(name: str) -> None:
    reader = ArrowLines("messages", None)
    plain = PLAIN.encode()
    ((_, columns),) = reader.read(Lines(1, 0, plain))
    assert columns is not None
    odd = TRAPS[name].encode()
    for text in (odd, odd + b"\n", plain + b"\n" + odd):
        parts = list(reader.read(Lines(1, 0, text)))
        assert b"".join(part.text for part, _ in parts) == text
        assert {part.text.strip() for part, columns in parts if columns is not None} <= {plain}
        reader = ArrowLines("messages", None)
        list(reader.read(Lines(1, 0, plain)))


@pytest.mark.parametrize("odd", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80"])
def test_what_is_no_utf_8_is_left_to_the_strict_parser(odd: bytes) -> None:
    reader = ArrowLines("messages", None)
    assert next(reader.read(Lines(1, 0, PLAIN.encode())))[1] is not None
    for place in (b'"t"', b'"b"', b'"user"'):
        text = PLAIN.encode().replace(place, b'"' + odd + b'"')
        assert [columns for _, columns in reader.read(Lines(1, 0, text))] == [None]


def test_good_lines_around_an_odd_one_are_taken_still(tmp_path: Path) -> None:
    texts = [PLAIN.encode().replace(b"7", str(number).encode()) for number in range(64)]
    texts[40] = texts[40].replace(b"40", b"[40]")
    parts = list(ArrowLines("messages", None).read(Lines(1, 0, b"\n".join(texts))))
    (left,) = [part for part, columns in parts if columns is None]
    assert texts[40] in left.block().texts
    assert len(left.block().texts) <= 64 // 2**HALVINGS + 1
    assert left.text == b"\n".join(texts)[left.start :][: len(left.text)]
    assert left.block().texts[0] == texts[left.number - 1]


def test_odd_lines_are_tried_less_and_less_and_good_ones_taken_again() -> None:
    reader = ArrowLines("messages", None)

    def takes(text: str) -> bool:
        return any(columns is not None for _, columns in reader.read(Lines(1, 0, text.encode())))

    assert takes(PLAIN)
    assert not any(takes(PLAIN.replace("7", "[7]")) for _ in range(300))
    tried = [takes(PLAIN) for _ in range(LONGEST_PAUSE + 1)]
    assert tried[-1]
    assert tried == sorted(tried)


# ---------------------------------------------------------------- whole uploads


@examples(60)
@given(data=st.data())
def test_an_upload_is_the_same_in_pieces_of_any_size(data: st.DataObject, tmp_path: Path) -> None:
    """Odd lines between plain ones, cut into texts anywhere: rows, numbers and pointers are those of one by one."""
    plain = [PLAIN.replace("7", str(number)) for number in range(data.draw(st.integers(1, 12)))]
    for _ in range(data.draw(st.integers(0, 3))):
        odd = data.draw(st.sampled_from(sorted(set(TRAPS) - {"a byte order mark"})).map(TRAPS.__getitem__) | odd_text)
        plain.insert(data.draw(st.integers(1, len(plain))), odd)
    upload = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(plain).encode()
    path = tmp_path / "rows.parquet"
    texts, number, start = [], 1, 0
    for text in upload.split(b"\n"):
        texts.append((number, start, text))
        number, start = number + 1, start + len(text) + 1
    samples, errors = [], []
    for number, start, text in texts:
        if not text or text.isspace():
            continue
        text = text.removesuffix(b"\r")
        try:
            samples.append((read_record(parse_record(text), "messages"), start, len(text)))
        except RecordError as error:
            errors.append({"pointer": f"line:{number}", "reason": str(error)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl_reader, "LINES_BYTES", data.draw(st.sampled_from([1, 100, 300, 1000, 1 << 20])))
        report = run(upload, path, chunk=data.draw(st.sampled_from([1, 7, 400, 1 << 16])), format="messages")
    if errors:
        assert report == {"outcome": "invalid", "bad": len(errors), "errors": errors}
        return
    batch = batch_of_samples([sample for sample, _, _ in samples])
    batch.starts, batch.lengths = [start for _, start, _ in samples], [length for _, _, length in samples]
    rows = pq.read_table(path).to_pylist()
    expected = everything(columns_of([batch]), tmp_path / "expected.parquet")
    assert rows == expected["rows"]
    assert json.dumps([report["statistics"], report["notices"]]) == expected["reports"]
    assert report["columns"] == expected["columns"]
