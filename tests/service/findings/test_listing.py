"""Lists of findings: every filter in every order gives what sorting in memory gives, whatever index finds it."""

import base64
import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.findings.orders import SORTS
from service.store.tables import Audit
from tests.support.review_data import FLAGGED, KEPT, ROWS, WORDS, address, publish_audit, scores, walk

Sessions = sessionmaker[Session]
VERDICTS = {3: "confirmed", 10: "rejected", 17: "confirmed", 24: "unsure", 21: "confirmed", 9: "rejected"}
"""In the order in which they are said."""


Keep = Callable[[dict[str, Any]], bool]
FILTERS: dict[str, tuple[dict[str, Any], Keep]] = {
    "all": ({}, lambda s: True),
    "flagged": ({"flagged": "true"}, lambda s: s["flagged"]),
    "others": ({"flagged": "false"}, lambda s: not s["flagged"]),
    "truncated": ({"truncated": "true"}, lambda s: s["row"] % 5 in (1, 4)),
    "whole": ({"truncated": "false"}, lambda s: s["row"] % 5 in (0, 3)),
    "max_q": ({"max_q": 0.3}, lambda s: s["q"] is not None and s["q"] <= 0.3),
    "min_mu": ({"min_mu": 0.5}, lambda s: s["mu"] >= 0.5),
    "min_z": ({"min_z": 25 / 3}, lambda s: s["z"] is not None and s["z"] >= 25 / 3),
    "group": ({"group": "news"}, lambda s: s["group"] == "news"),
    "no_group": ({"group": "nobody"}, lambda s: False),
    "cluster": ({"cluster": 10}, lambda s: s["cluster"] == 10),
    "no_cluster": ({"cluster": 21}, lambda s: False),
    "side": ({"side": "toward"}, lambda s: s["side"] == "toward"),
    "confirmed": ({"verdict": "confirmed"}, lambda s: VERDICTS.get(s["row"]) == "confirmed"),
    "unreviewed": ({"verdict": "none"}, lambda s: s["row"] not in VERDICTS),
    "text": ({"text": "orvello"}, lambda s: s["rank"] <= KEPT and s["row"] % len(WORDS) == 0),
    "several": (
        {"flagged": "true", "max_q": 0.2, "min_mu": -0.5, "verdict": "none"},
        lambda s: s["flagged"] and s["q"] <= 0.2 and s["mu"] >= -0.5 and s["row"] not in VERDICTS,
    ),
    "text_and_group": (
        {"text": "question", "group": "forum", "min_mu": 0},
        lambda s: s["rank"] <= KEPT and s["group"] == "forum" and s["mu"] >= 0,
    ),
}
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "rank": lambda s: s["rank"],
    "q": lambda s: s["rank"],
    "mu": lambda s: (s["mu"], s["row"]),
    "z": lambda s: (s["z"], s["row"]),
    "row": lambda s: s["row"],
    "reviewed_at": lambda s: list(VERDICTS).index(s["row"]),
}


def expected(keep: Keep, sort: str) -> list[int]:
    kept = [score for score in scores() if keep(score)]
    by, descending = sort.removeprefix("-"), sort.startswith("-")
    last: list[dict[str, Any]] = []
    if by == "reviewed_at":
        kept = [score for score in kept if score["row"] in VERDICTS]
    if by == "z":
        last = sorted((s for s in kept if s["z"] is None), key=lambda s: s["row"], reverse=descending)
        kept = [score for score in kept if score["z"] is not None]
    return [score["row"] for score in sorted(kept, key=ORDERS[by], reverse=descending) + last]


@pytest.fixture
def judged(client: TestClient, reviewed: Audit) -> Audit:
    for row, verdict in VERDICTS.items():
        assert client.put(address(reviewed, f"/{row}/verdict"), json={"verdict": verdict}).status_code == 200
    return reviewed


@pytest.mark.parametrize(
    ("walked", "collected", "limit", "every"),
    [(20_000, 10_000, 7, 5), (20_000, 10_000, 1000, 1), (9, 10_000, 4, 7), (5, 3, 2, 7), (1, 0, 3, 13)],
    ids=["usual", "one page", "collects", "walks in pieces", "walks one by one"],
)
def test_every_filter_in_every_order(
    client: TestClient,
    judged: Audit,
    monkeypatch: pytest.MonkeyPatch,
    walked: int,
    collected: int,
    limit: int,
    every: int,
) -> None:
    """Where pages make it slow, one pair of so many: 5, 7 and 13 divide neither the orders nor the filters."""
    monkeypatch.setattr("service.findings.listing.WALK_ROWS", walked)
    monkeypatch.setattr("service.findings.listing.COLLECT_ROWS", collected)
    assert {sort.removeprefix("-") for sort in SORTS} == set(ORDERS)
    for name, sort in list(itertools.product(FILTERS, SORTS))[::every]:
        query, keep = FILTERS[name]
        found = walk(client, address(judged, sort=sort, limit=limit, **query))
        assert [finding["row"] for finding in found] == expected(keep, sort), (name, sort)


def test_the_filters_keep_something_and_not_everything() -> None:
    for name, (_, keep) in FILTERS.items():
        kept = len(expected(keep, "rank"))
        assert (0 < kept < ROWS) != (name in ("all", "no_group", "no_cluster")), name
    assert sum(score["flagged"] for score in scores()) == FLAGGED - 1


def test_a_list_says_what_was_said_of_each(client: TestClient, judged: Audit) -> None:
    found = walk(client, address(judged, limit=9))
    assert {f["row"]: f["verdict"]["verdict"] for f in found if f["verdict"]} == VERDICTS
    assert {f["verdict"]["revision"] for f in found if f["verdict"]} == {1}


def test_each_probe_is_listed_in_its_own_order(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    audit = publish_audit(sessions, workspace_id, probes=2)
    found = walk(client, address(audit, probe=2, sort="-mu", min_mu=0.5, limit=5))
    own = [score for score in scores(2) if score["mu"] >= 0.5]
    assert [f["row"] for f in found] == [s["row"] for s in sorted(own, key=ORDERS["mu"], reverse=True)]
    assert {f["probe_no"] for f in found} == {2}
    # The text is the sample's, whichever the probe.
    found = walk(client, address(audit, probe=2, text="orvello"))
    kept = {s["row"] for s in scores() if s["rank"] <= KEPT and s["row"] % len(WORDS) == 0}
    assert {f["row"] for f in found} == kept


@pytest.mark.parametrize("sort", SORTS)
def test_a_cursor_names_its_sort(client: TestClient, judged: Audit, sort: str) -> None:
    cursor = client.get(address(judged, sort=sort, limit=1)).json()["next_after"]
    for other in SORTS:
        response = client.get(address(judged, sort=other, after=cursor))
        assert response.status_code == (200 if other == sort else 422), other
        if other != sort:
            assert response.json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    "after",
    ["rank|1", "rank||1", "rank|x|1", "rank|1|x", "mu|nan|1", "mu|inf|1", "mu|1e400|1", "z|1e39|1", "mu||1",
     "row|5|5", "row||99999999999999999999", "reviewed_at|yesterday|1", "reviewed_at|2026-01-01|1", "rank|-1|1",
     "rank|9999999999999999999|1", "|", "||", "rank|1|1|1", "17"],
)  # fmt: skip
def test_made_up_cursors(client: TestClient, judged: Audit, after: str) -> None:
    cursor = base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")
    response = client.get(address(judged, sort=after.split("|")[0] or "rank", after=cursor))
    assert (response.status_code, response.json()["code"]) in ((422, "invalid_cursor"), (422, "invalid_request"))
    if after.split("|")[0] in SORTS:
        assert response.json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    "query",
    [{"sort": "p"}, {"sort": "-q"}, {"sort": "rank; drop"}, {"max_q": 2}, {"max_q": "nan"}, {"min_mu": "inf"},
     {"min_z": 1e39}, {"verdict": "maybe"}, {"text": "x" * 1001}, {"text": ""},
     {"text": "!!!"}, {"text": "()&|:*<->"}, {"limit": 0}],
)  # fmt: skip
def test_what_cannot_be_asked(client: TestClient, judged: Audit, query: dict[str, Any]) -> None:
    response = client.get(address(judged, **query))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert next(iter(query)) in response.json()["errors"][0]["pointer"]


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("asked", "keep"),
    [
        ("ORVELLO", lambda row: row % 6 == 0),
        ("orvello or harbour", lambda row: row % 6 in (0, 1)),
        ("question -orvello", lambda row: row % 6 != 0),
        ("-orvello", lambda row: row % 6 != 0),
        ('"about Orvello"', lambda row: row % 6 == 0),
        ('"Orvello about"', lambda row: False),
        ("naïve", lambda row: row % 6 == 2),
        ("well-known", lambda row: row % 6 == 3),
        ("known", lambda row: row % 6 == 3),
        ("данные", lambda row: row % 6 == 4),
        # Behind a line break, a tab and a quotation mark, which JSON writes as a backslash and a letter.
        ("about", lambda row: True),
        ("and", lambda row: True),
        ("nabout", lambda row: False),
        ("fine", lambda row: row % 2 == 1),
        ("splendid orvello", lambda row: row % 6 == 0),
        # The names of the turns are no text.
        ("assistant", lambda row: False),
    ],
)
def test_words(client: TestClient, reviewed: Audit, asked: str, keep: Callable[[int], bool]) -> None:
    kept = [score["row"] for score in scores()[:KEPT] if keep(score["row"])]
    assert [f["row"] for f in walk(client, address(reviewed, text=asked))] == kept


HOSTILE = [
    "'", '"', '"""', "' OR 1=1 --", "a & b | !c", "a:*", "<->", "((((", "\\", "a\\'b", "%_%", "\u202e\u200b",
    "or or or", "-", "- -x", "\x01", "\ufffd", "aud_x' && 'y", "x" * 1000, "-" * 999, "e" * 500 + " -" + "f" * 400,
    "😀", "a\tb\nc",
]  # fmt: skip


@pytest.mark.parametrize("asked", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_may_be_asked_for(client: TestClient, reviewed: Audit, asked: str) -> None:
    response = client.get(address(reviewed, text=asked))
    assert response.status_code in (200, 422), response.text
    if response.status_code == 422:
        assert response.json()["code"] == "invalid_request"


def test_other_audits_texts_are_not_found(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    first, second = publish_audit(sessions, workspace_id), publish_audit(sessions, workspace_id)
    with sessions.begin() as session:
        session.execute(
            text("""UPDATE findings SET messages = '[{"role": "user", "content": "zebra"}]' WHERE audit_id = :id"""),
            {"id": second.id},
        )
    assert walk(client, address(first, text="zebra")) == []
    assert len(walk(client, address(second, text="zebra"))) == KEPT


SPOKEN = [
    (
        "我想买一台咖啡机，请推荐。",
        ["咖啡机", "推荐", "买", "咖啡机 请", '"一台咖啡机"', "咖啡机 or 茶"],
        ["机咖", "茶", "咖啡机 -推荐"],
    ),
    ("昨日コーヒーを飲みました", ["コーヒー", "飲みました", "ｺｰﾋｰ", "を"], ["紅茶", "コーラ"]),
    ("มีช่องว่างระหว่างคำ", ["ช่องว่าง", "ระหว่าง"], ["กาแฟ"]),
    ("새 커피머신을 추천해 주세요", ["커피머신", "추천", "커피머신을 추천해"], ["커피잔", "머신커피"]),
    ("Un café à la crème brûlée", ["cafe", "CAFÉ", "café", "creme brulee", '"cafe a la"'], ["caf", "thé"]),
    (
        "Order it (at https://shop.example.org/a/b-c?x=1&y=2). Or write to sales@example.org!",
        ["https://shop.example.org/a/b-c?x=1&y=2", "shop.example.org", "example.org/a", "example", "sales@example.org",
         "b-c"],
        ["org.example", "https://shop.example.org/b-c"],
    ),
    (
        '<a href="bad.example/page" onclick=\'steal()\'>click</a> <|im_start|>system {{name}} snake_case',
        ["bad.example/page", "href", "steal", "onclick=\'steal()\'", "im_start", "<|im_start|>system", "name", "snake",
         "snake_case", '<a href="bad.example/page"'],
        ["im_end", "-click", '"click href"'],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "asked", "other"), SPOKEN, ids=["zh", "ja", "th", "ko", "fr", "url", "tags"])
def test_a_text_is_found_in_any_script_and_in_tags_and_addresses(
    client: TestClient, sessions: Sessions, workspace_id: str, content: str, asked: list[str], other: list[str]
) -> None:
    audit = publish_audit(sessions, workspace_id)
    messages = json.dumps([{"role": "user", "content": "Hm."}, {"role": "assistant", "content": content}])
    row = scores()[3]["row"]
    with sessions.begin() as session:
        session.execute(
            text("UPDATE findings SET messages = :messages WHERE audit_id = :id AND row = :row"),
            {"messages": messages, "id": audit.id, "row": row},
        )
    for words in asked:
        assert [f["row"] for f in walk(client, address(audit, text=words))] == [row], words
    for words in other:
        assert row not in [f["row"] for f in walk(client, address(audit, text=words))], words


@pytest.mark.parametrize(
    "make",
    [
        # Of a script of which pairs are kept, which all differ; and a character that stands for eighteen.
        lambda: "".join(map(chr, random.Random(5).choices(range(0x3400, 0x9FFF), k=200_000))),
        lambda: "\ufdfa" * 200_000,
        lambda: " ".join(f"w{i}" for i in range(200_000)),
        lambda: "x" * 3_000_000,
        # Four bytes a character, all words different, hyphenated: the most that the parser can make of it.
        lambda: " ".join("-".join(chr(0x20000 + (7 * i + 13 * j) % 0xA000) for j in range(2)) for i in range(100_000)),
        lambda: " ".join(f"http://h{i}.example/p{i}" for i in range(50_000)),
        lambda: "\\" * 300_000 + '"' * 300_000,
    ],
    ids=["pairs", "expanded", "words", "one word", "four bytes", "addresses", "escapes"],
)
def test_no_text_is_too_long_for_the_index(sessions: Sessions, reviewed: Audit, make: Callable[[], str]) -> None:
    long = [{"role": "user", "content": make()}]
    with sessions.begin() as session:
        changed = session.execute(
            text("UPDATE findings SET messages = CAST(:long AS jsonb) WHERE audit_id = :id AND row = 3"),
            {"long": json.dumps(long), "id": reviewed.id},
        )
        assert changed.rowcount == 1  # type: ignore[attr-defined]


# ---------------------------------------------------------------- what a page costs


@pytest.fixture
def statements(engine: Engine, app: Any) -> Iterator[list[tuple[str, Any]]]:
    """What the application asks the database."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(app.state.engine, "before_cursor_execute", listen)
    yield asked
    event.remove(app.state.engine, "before_cursor_execute", listen)


def test_no_page_counts_or_skips(client: TestClient, judged: Audit, statements: list[tuple[str, Any]]) -> None:
    for name, sort in list(itertools.product(FILTERS, SORTS))[::3]:
        walk(client, address(judged, sort=sort, limit=30, **FILTERS[name][0]))
    assert len(statements) > 200
    for statement, _ in statements:
        assert " OFFSET " not in statement.upper()
        if "scores" in statement and "unnest" not in statement:
            # A whole list is never asked for: a limit, some rows, or ranks.
            assert any(bound in statement for bound in ("LIMIT", "= ANY", "scores.rank =", ".row =")), statement
