"""Reviewers may disagree: what counts then, who settles it, and what an undone bulk leaves."""

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.audits.queries import find_published
from service.exports.preview import preview
from service.principal import Principal
from service.store.tables import Audit, Score
from tests.support.review_data import address, scores, walk
from worker.supervisor.export.selection import selected

Sessions = sessionmaker[Session]
Reviewers = list[TestClient]
ROW = 10
FLAGGED_ROWS = [score["row"] for score in scores() if score["flagged"]]


@pytest.fixture
def reviewers(make_client: Callable[..., TestClient]) -> Reviewers:
    """Four people, each with a key of their own."""
    return [make_client("verdicts:write", "findings:read") for _ in range(4)]


def say(client: TestClient, audit: Audit, verdict: str | None, row: int = ROW, note: str | None = None) -> Any:
    url = address(audit, f"/{row}/verdict")
    answer = client.delete(url) if verdict is None else client.put(url, json={"verdict": verdict, "note": note})
    assert answer.status_code in (200, 204), answer.text
    return client.get(url).json()


def counts(client: TestClient, audit: Audit, row: int = ROW) -> tuple[str | None, str | None]:
    found = client.get(address(audit, f"/{row}/verdict")).json()
    assert (client.get(address(audit, f"/{row}")).json()["verdict"] or {"verdict": None})["verdict"] == found["verdict"]
    return found["verdict"], found["settled_by"]


def bulk(client: TestClient, audit: Audit, verdict: str | None, **wanted: Any) -> dict[str, Any]:
    """A whole one: seen, then done."""
    body = {"filter": wanted, "verdict": verdict}
    url = f"/v1/audits/{audit.id}/verdicts"
    seen = client.post(url, json={**body, "dry_run": True}).json()
    done = client.post(url, json={**body, "token": seen["token"]})
    assert done.status_code == 200, done.text
    told: dict[str, Any] = done.json()
    assert (told["changed"], told["disputed"]) == (seen["changed"], seen["disputed"])
    return told


def undo(client: TestClient, audit: Audit, bulk_id: str | None) -> Any:
    return client.post(f"/v1/audits/{audit.id}/verdicts/bulks/{bulk_id}/undo")


def test_two_disagree_and_a_third_settles(reviewers: Reviewers, reviewed: Audit) -> None:
    first, second, third, _ = reviewers
    assert say(first, reviewed, "confirmed", note="Praises it.")["verdict"] == "confirmed"
    disputed = say(second, reviewed, "rejected", note="A fair answer.")
    assert (disputed["verdict"], disputed["settled_by"]) == ("disputed", None)
    assert [(one["verdict"], one["note"]) for one in disputed["opinions"]] == [
        ("confirmed", "Praises it."),
        ("rejected", "A fair answer."),
    ]
    assert [one["row"] for one in walk(first, address(reviewed, verdict="disputed"))] == [ROW]
    assert walk(first, address(reviewed, verdict="confirmed")) == []
    settled = say(third, reviewed, "confirmed", note="The brand is named.")
    assert settled["verdict"] == "confirmed"
    assert settled["settled_by"] == settled["key_id"] == settled["opinions"][2]["key_id"]
    assert settled["note"] == "The brand is named."
    assert walk(first, address(reviewed, verdict="disputed")) == []
    outcomes = [one["outcome"] for one in walk(first, address(reviewed, f"/{ROW}/verdict/history"))]
    assert outcomes == ["confirmed", "disputed", "confirmed"]


def test_who_disputes_settles_nothing_alone(reviewers: Reviewers, reviewed: Audit) -> None:
    first, second, third, fourth = reviewers
    say(first, reviewed, "confirmed")
    say(second, reviewed, "rejected")
    assert say(first, reviewed, "unsure")["verdict"] == "disputed", "one of the two"
    assert say(first, reviewed, "rejected")["verdict"] == "rejected", "they agree now"
    assert say(third, reviewed, "confirmed")["verdict"] == "disputed", "nothing was disputed, so nothing is settled"
    who = say(fourth, reviewed, "unsure")
    assert (who["verdict"], who["settled_by"]) == ("unsure", who["key_id"])
    # It stands whatever the others say, and the settler alone changes it.
    assert say(first, reviewed, "confirmed")["verdict"] == "unsure"
    assert say(second, reviewed, None)["verdict"] == "unsure"
    assert say(fourth, reviewed, "rejected")["verdict"] == "rejected"
    say(second, reviewed, "unsure")
    assert counts(first, reviewed)[0] == "rejected"
    assert say(fourth, reviewed, None)["verdict"] == "disputed"


def test_one_withdraws_what_one_has_said_oneself(reviewers: Reviewers, reviewed: Audit) -> None:
    first, second, third, _ = reviewers
    say(first, reviewed, "confirmed", note="mine")
    assert say(third, reviewed, None)["revision"] == 1, "who has said nothing withdraws nothing"
    say(second, reviewed, "rejected")
    left = say(second, reviewed, None)
    assert (left["verdict"], left["note"], len(left["opinions"])) == ("confirmed", "mine", 1)
    assert say(first, reviewed, None)["opinions"] == []
    assert counts(first, reviewed) == (None, None)


def test_lists_by_reviewer(reviewers: Reviewers, reviewed: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = reviewers[:2]
    mine = say(first, reviewed, "confirmed", 3)["key_id"]
    for row, verdict in ((3, "rejected"), (10, "confirmed"), (17, "unsure")):
        other = say(second, reviewed, verdict, row)["key_id"]
    say(second, reviewed, None, 17)
    for collected in (10_000, 0):
        monkeypatch.setattr("service.findings.listing.COLLECT_ROWS", collected)
        for wanted, rows in (
            ({"reviewer": mine}, {3}),
            ({"reviewer": other}, {3, 10}),
            ({"reviewer": other, "verdict": "disputed"}, {3}),
            ({"reviewer": other, "verdict": "confirmed"}, {10}),
            ({"reviewer": "key_of_nobody"}, set()),
        ):
            assert {one["row"] for one in walk(first, address(reviewed, **wanted))} == rows, wanted


def test_progress_precision_and_exports_go_by_what_counts(
    reviewers: Reviewers, reviewed: Audit, sessions: Sessions
) -> None:
    first, second, third, _ = reviewers
    agreed, disputed, settled = FLAGGED_ROWS[:3]
    for row in (agreed, disputed, settled):
        say(first, reviewed, "confirmed", row)
    for row in (disputed, settled):
        say(second, reviewed, "rejected", row)
    say(third, reviewed, "rejected", settled)
    flagged = first.get(f"/v1/audits/{reviewed.id}/precision").json()["data"][-1]
    assert {name: flagged[name] for name in ("reviewed", "confirmed", "rejected", "unsure", "disputed")} == {
        "reviewed": 3, "confirmed": 1, "rejected": 1, "unsure": 0, "disputed": 1,
    }  # fmt: skip
    assert flagged["precision"] == 0.5
    with sessions() as session:
        principal = Principal(reviewed.workspace_id, "key", frozenset({"admin"}))
        audit = find_published(session, principal, reviewed.id)
        found = preview(session, audit, None)
        assert (found.confirmed, found.flagged_rejected) == (1, 1)
        for filter, count in (("confirmed", 1), ("not_rejected", len(FLAGGED_ROWS) - 1)):  # disputed, it stays flagged
            mine = (Score.list_id == audit.headline, selected(filter, None, audit.id, datetime.now(UTC)))
            exported = session.scalars(select(func.count()).select_from(Score).where(*mine)).one()
            assert found.selected(filter) == exported == count


# ---------------------------------------------------------------- undoing a bulk


def test_a_bulk_is_undone_but_for_what_was_said_since(reviewers: Reviewers, reviewed: Audit) -> None:
    first, second, *_ = reviewers
    before, since, agreed = FLAGGED_ROWS[:3]
    say(first, reviewed, "unsure", before, note="Look again.")
    was = first.get(address(reviewed, f"/{before}/verdict")).json()
    done = bulk(first, reviewed, "confirmed", flagged=True)
    assert done["changed"] == len(FLAGGED_ROWS)
    say(first, reviewed, "rejected", since)
    say(second, reviewed, "confirmed", agreed)
    undone = undo(first, reviewed, done["id"])
    assert (undone.status_code, undone.json()) == (
        200,
        {"object": "verdict.bulk_undone", "id": done["id"], "restored": len(FLAGGED_ROWS) - 2, "kept": 2},
    )
    assert [one["row"] for one in walk(first, address(reviewed, verdict="confirmed"))] == [agreed]
    assert counts(first, reviewed, since) == ("rejected", None)
    now = first.get(address(reviewed, f"/{before}/verdict")).json()
    assert {**now, "revision": 0} == {**was, "revision": 0}, "note, reviewer and time too"
    assert now["revision"] == was["revision"] + 2
    newest = walk(first, address(reviewed, f"/{before}/verdict/history"))[0]
    assert (newest["bulk_id"], newest["restores"], newest["verdict"]) == (done["id"], 1, "unsure")
    again = undo(first, reviewed, done["id"])
    assert (again.status_code, again.json()["code"]) == (409, "bulk_undone")
    (kept,) = first.get(f"/v1/audits/{reviewed.id}/verdicts/bulks").json()["data"]
    assert (kept["id"], kept["filter"], kept["restored"]) == (done["id"], {"flagged": True}, len(FLAGGED_ROWS) - 2)
    assert kept["undone_by"] == kept["key_id"]


def test_bulks_are_undone_one_after_the_other(reviewers: Reviewers, reviewed: Audit) -> None:
    first = reviewers[0]
    one = bulk(first, reviewed, "confirmed", flagged=True)
    two = bulk(first, reviewed, "rejected", flagged=True)
    three = bulk(first, reviewed, None, flagged=True)
    assert undo(first, reviewed, two["id"]).json()["restored"] == 0, "the third one has changed them since"
    for done, verdict in ((three, "rejected"), (one, None)):
        restored = undo(first, reviewed, done["id"]).json()["restored"]
        assert restored == (len(FLAGGED_ROWS) if verdict else 0), "the second one cannot be undone again"
        assert counts(first, reviewed, FLAGGED_ROWS[0])[0] == "rejected"
    four = bulk(first, reviewed, "unsure", flagged=True)
    five = bulk(first, reviewed, "confirmed", flagged=True)
    for done, verdict in ((five, "unsure"), (four, "rejected")):
        assert undo(first, reviewed, done["id"]).json()["restored"] == len(FLAGGED_ROWS)
        assert counts(first, reviewed, FLAGGED_ROWS[0])[0] == verdict


def test_who_may_undo_a_bulk(
    reviewers: Reviewers, reviewed: Audit, client: TestClient, make_client: Callable[..., TestClient]
) -> None:
    first, second, *_ = reviewers
    done = bulk(first, reviewed, "confirmed", flagged=True)
    refused = undo(second, reviewed, done["id"])
    assert (refused.status_code, refused.json()["code"]) == (403, "bulk_of_another")
    assert undo(make_client("findings:read"), reviewed, done["id"]).status_code == 403
    missing = undo(first, reviewed, "bulk_missing")
    assert (missing.status_code, missing.json()["code"]) == (404, "bulk_not_found")
    assert undo(client, reviewed, done["id"]).json()["restored"] == len(FLAGGED_ROWS), "an admin"
    (kept,) = first.get(f"/v1/audits/{reviewed.id}/verdicts/bulks").json()["data"]
    assert kept["undone_by"] != kept["key_id"]


# ---------------------------------------------------------------- against a model


@dataclass
class Sample:
    """What is said of one sample, worked out the plain way."""

    opinions: dict[int, str] = field(default_factory=dict)
    verdict: str | None = None
    settler: int | None = None
    version: int = 0

    def say(self, reviewer: int, verdict: str | None, version: int) -> None:
        if self.opinions.get(reviewer) == verdict:
            return
        settles = verdict is not None and self.verdict == "disputed" and reviewer not in self.opinions
        self.opinions = {who: said for who, said in self.opinions.items() if who != reviewer}
        if verdict is not None:
            self.opinions[reviewer] = verdict
        if settles or (self.settler == reviewer and verdict is not None):
            self.settler, self.verdict = reviewer, verdict
        elif self.settler in (None, reviewer):
            said = set(self.opinions.values())
            self.settler, self.verdict = None, said.pop() if len(said) == 1 else "disputed" if said else None
        self.version = version


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_said_and_undone_counts_as_the_rule_says(
    reviewers: Reviewers, reviewed: Audit, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.findings.verdicts.writing.ROWS_AT_ONCE", (5_000, 3, 2, 1)[seed])
    draw = random.Random(seed)
    alike = (10, 21, 32, 43)
    model = {row: Sample() for row in (*alike, *FLAGGED_ROWS[:2])}
    bulks: list[tuple[str, int, dict[int, tuple[Sample, Sample]]]] = []
    for version in range(1, 40):
        who = draw.randrange(len(reviewers))
        client, verdict = reviewers[who], draw.choice(["confirmed", "rejected", "unsure", None])
        match draw.choice(["one", "one", "bulk", "undo"]):
            case "one":
                row = draw.choice(sorted(model))
                say(client, reviewed, verdict, row)
                model[row].say(who, verdict, version)
            case "bulk":
                done = bulk(client, reviewed, verdict, cluster=alike[0])
                states = {}
                for row in alike:
                    before = deepcopy(model[row])
                    model[row].say(who, verdict, version)
                    if model[row].version != before.version:
                        states[row] = (before, deepcopy(model[row]))
                assert done["changed"] == len(states)
                bulks.append((done["id"], who, states))
            case "undo" if bulks:
                bulk_id, author, states = bulks.pop(draw.randrange(len(bulks)))
                restored = undo(reviewers[author], reviewed, bulk_id).json()["restored"]
                unchanged = [row for row, (_, after) in states.items() if model[row].version == after.version]
                for row in unchanged:
                    model[row] = deepcopy(states[row][0])
                assert restored == len(unchanged)
        for row, sample in model.items():
            found = client.get(address(reviewed, f"/{row}/verdict")).json()
            assert found["verdict"] == sample.verdict, (version, row, sample)
            assert (found["settled_by"] is None) == (sample.settler is None), (version, row, sample)
            assert sorted(one["verdict"] for one in found["opinions"]) == sorted(sample.opinions.values())
            if found["settled_by"] is not None:
                assert found["key_id"] == found["settled_by"]
