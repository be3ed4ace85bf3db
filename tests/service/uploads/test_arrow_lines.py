"""Lines read by Arrow: what is plainly good is taken, and just as the strict parser reads it."""

import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow.parquet as pq
import pytest
from dataset_records import jsonl, turn
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.datasets.arrow_lines import ArrowLines
from service.datasets.batch import batch_of_samples
from service.datasets.columns import Columns, columns_of
from service.datasets.lines import Lines
from service.datasets.notices import Notices
from service.datasets.records import Mapping, read_record
from service.datasets.rows_writer import RowsWriter
from service.datasets.statistics import Statistics
from service.datasets.strict_json import parse_record

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
@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            try:
                members = list(json.loads(text).items())
            except ValueError:
                continue
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
@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_taken_is_what_the_strict_parser_reads(format: str, data: st.DataObject, tmp_path: Path) -> None:
    taken(data.draw(odd_text_of_lines(format)), format, tmp_path / "rows.parquet")
