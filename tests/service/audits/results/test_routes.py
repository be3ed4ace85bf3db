"""Parts of an answer over HTTP: each is the worker's own numbers, narrow, and known again by its tag."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.contract.results import Summary
from service.lifecycle.jobs import claim, fail
from service.store.tables import Audit
from tests.support.made_audits import PROBES, SEED, make_published, make_queued
from tests.support.summaries import make_group, make_probe_summary

Sessions = sessionmaker[Session]
PARTS = ("histogram", "curve", "calibration", "metrics")
NAMES = ["", "Zebra", "a", "a\u202eb", "b" * 9_999, "docs", "forum/&?=%", "z", "\u00df", "\u65e5\u672c", "\U0001f9b7"]
"""Of groups, in the order of their code points: none is too long or too odd for a page that ends with it."""


@pytest.fixture
def audit(sessions: Sessions, workspace_id: str) -> Audit:
    """Finished, of two unlike probes, two seeds and many groups."""
    groups = {name: make_group(rows=number) for number, name in enumerate(NAMES, start=1)}
    groups["docs"] = make_group(curve=None, rows=40, mu=None, mu_low=None, mu_high=None)
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=30, flagged=5, probes=2, seeds=2)
        summary = Summary.model_validate(audit.summary).model_copy(
            update={
                "groups": dict(reversed(groups.items())),
                "probes": (
                    make_probe_summary(name=PROBES[0], flagged=3, loss_first=3.5),
                    make_probe_summary(name=PROBES[1], flagged=4, threshold_z=None, placebo=None, sensitivity=None),
                ),
            }
        )
        audit.summary = summary.model_dump(mode="json")
    return audit


def part(client: TestClient, audit: Audit, name: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/v1/audits/{audit.id}/{name}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def probe_of(audit: Audit, number: int) -> dict[str, Any]:
    assert audit.summary is not None
    found: dict[str, Any] = audit.summary["probes"][number - 1]
    return found


@pytest.mark.parametrize("number", [1, 2])
def test_each_part_holds_the_published_numbers_of_that_probe_and_nothing_else(
    client: TestClient, audit: Audit, number: int
) -> None:
    assert audit.summary is not None
    probe = probe_of(audit, number)
    of = {"audit_id": audit.id, "probe": number, "name": probe["name"]}
    assert part(client, audit, "histogram", probe=number) == {
        **of,
        "object": "audit.histogram",
        "rows_scored": 30,
        **{name: probe[name] for name in ("flagged", "threshold_z", "null", "histogram")},
    }
    assert part(client, audit, "calibration", probe=number) == {
        **of,
        "object": "audit.calibration",
        **{name: probe[name] for name in ("null", "calibration", "placebo")},
    }
    assert part(client, audit, "curve", probe=number) == {
        **of,
        "object": "audit.sensitivity_curve",
        "sensitivity": probe["sensitivity"],
    }
    metrics = part(client, audit, "metrics", probe=number)
    curve = metrics.pop("curve")
    facts = ("seeds", "steps", "tokens", "refreshes", "train_loss_first", "train_loss_last", "seconds", "device")
    assert metrics == {
        **of,
        "object": "audit.metrics",
        **{name: audit.summary[name] for name in facts},
        "probe_loss_first": probe["loss_first"],
        "probe_loss_last": probe["loss_last"],
        "drift": probe["drift"],
        "samples_per_second": pytest.approx(30 * 2 * 2 / 201.4),  # samples, epochs, seeds
    }
    assert [point["step"] for point in curve] == list(range(1, 31))
    assert {point["step"] for point in curve if point["probe_loss"] is not None} == {5, 10, 15, 20, 25, 30}
    assert curve[0] == {"step": 1, "loss": 2.7, "learning_rate": 1e-4, "grad_norm": 0.7, "probe_loss": None}


def test_the_first_probe_is_meant_where_none_is_named(client: TestClient, audit: Audit) -> None:
    for name in PARTS:
        assert part(client, audit, name) == part(client, audit, name, probe=1)


def test_the_curve_is_the_first_seeds_and_of_the_attempt_that_ran_it(
    client: TestClient, sessions: Sessions, audit: Audit
) -> None:
    seed_of = "SELECT count(*) FROM audit_events WHERE type = 'metric' AND (data->>'seed')::int = :seed"
    with sessions.begin() as session:
        assert session.scalar(text(seed_of), {"seed": SEED + 1}) == 30
        session.execute(text("UPDATE audit_events SET attempt = 9 WHERE type = 'metric' AND (data->>'step')::int > 20"))
    curve = part(client, audit, "metrics")["curve"]
    assert [point["step"] for point in curve] == list(range(1, 21))


def test_speed_is_unknown_where_the_time_of_training_is(client: TestClient, sessions: Sessions, audit: Audit) -> None:
    with sessions.begin() as session:
        session.execute(update(Audit).values(summary={**(audit.summary or {}), "seconds": {"loading": 3.0}}))
    assert part(client, audit, "metrics")["samples_per_second"] is None


def test_a_groups_curve(client: TestClient, audit: Audit) -> None:
    assert audit.summary is not None
    for name in NAMES:
        found = part(client, audit, "curve", group=name)
        assert found == {
            "object": "audit.tradeoff_curve",
            "audit_id": audit.id,
            "group": name,
            "curve": audit.summary["groups"][name]["curve"],
        }
        assert (found["curve"] is None) == (name == "docs")


@pytest.mark.parametrize("limit", [1, 3, 4, 1000])
def test_groups_by_name_page_by_page(client: TestClient, audit: Audit, limit: int) -> None:
    assert audit.summary is not None
    found: list[dict[str, Any]] = []
    address: str | None = f"/v1/audits/{audit.id}/groups?limit={limit}"
    pages = 0
    while address is not None:
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert set(page) == {"object", "data", "has_more", "next_after"}
        assert len(page["data"]) == limit or not page["has_more"]
        link = answer.headers.get("Link", "")
        assert (link != "") == page["has_more"] == (page["next_after"] is not None)
        found += page["data"]
        address = link.partition(">")[0].lstrip("<") or None
        pages += 1
    assert pages == -(-len(NAMES) // limit)
    shown = ("rows", "flagged", "mu", "mu_low", "mu_high")
    assert found == [
        {
            "object": "audit.group",
            "name": name,
            **{field: audit.summary["groups"][name][field] for field in shown},
            "has_curve": name != "docs",
        }
        for name in NAMES
    ]


def test_a_cursor_of_another_list_is_refused(client: TestClient, audit: Audit) -> None:
    for after in ("AAAA", "Z" * 200, "~"):
        answer = client.get(f"/v1/audits/{audit.id}/groups", params={"after": after})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


def test_an_audit_without_groups_has_an_empty_list(client: TestClient, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=20, flagged=0, groups={})
    assert part(client, audit, "groups") == {"object": "list", "data": [], "has_more": False, "next_after": None}


def test_what_the_audit_does_not_have_is_a_problem_that_says_what_it_has(client: TestClient, audit: Audit) -> None:
    for name in PARTS:
        for number, status, code in [(3, 404, "audit_probe_not_found"), (0, 422, "invalid_request")]:
            answer = client.get(f"/v1/audits/{audit.id}/{name}", params={"probe": number})
            assert (answer.status_code, answer.json()["code"]) == (status, code), name
            assert answer.json()["errors"][0]["pointer"] == "query:probe"
        assert "2 probes" in client.get(f"/v1/audits/{audit.id}/{name}?probe=8").json()["detail"]
    answer = client.get(f"/v1/audits/{audit.id}/curve", params={"group": "nope"})
    assert (answer.status_code, answer.json()["code"]) == (404, "audit_group_not_found")
    assert "/groups" in answer.json()["detail"]
    # jsonb knows no NUL; nor does it get one.
    assert client.get(f"/v1/audits/{audit.id}/curve?group=a%00b").status_code == 400


@pytest.mark.parametrize("name", [*PARTS, "summary", "groups", "curve?group=forum/%26%3F%3D%25"])
def test_whoever_has_the_answer_gets_304(
    client: TestClient, make_client: Callable[..., TestClient], other_workspace_id: str, audit: Audit, name: str
) -> None:
    address = f"/v1/audits/{audit.id}/{name}"
    first = client.get(address)
    tag = first.headers["ETag"]
    assert not tag.startswith("W/")
    again = client.get(address, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    stale = client.get(address, headers={"If-None-Match": '"another"'})
    assert (stale.status_code, stale.content) == (200, first.content)
    # A tag tells nothing of other workspaces.
    stranger = make_client("admin", workspace=other_workspace_id)
    assert stranger.get(address, headers={"If-None-Match": tag}).status_code == 404


def test_other_probes_groups_and_pages_have_other_tags(client: TestClient, audit: Audit) -> None:
    addresses = [
        *(
            "histogram?probe=1",
            "histogram?probe=2",
            "curve?group=a",
            "curve?group=z",
            "groups?limit=1",
            "groups?limit=2",
        )
    ]
    tags = {client.get(f"/v1/audits/{audit.id}/{address}").headers["ETag"] for address in addresses}
    assert len(tags) == len(addresses)


@pytest.mark.parametrize("name", [*PARTS, "groups", "curve?group=a", "histogram?probe=8"])
def test_before_it_has_succeeded_there_is_no_answer(
    client: TestClient, sessions: Sessions, workspace_id: str, name: str
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    waits = client.get(f"/v1/audits/{audit.id}/{name}")
    assert (waits.status_code, waits.json()["code"]) == (409, "audit_not_finished")
    assert "Retry-After" in waits.headers
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        assert fail(session, held, Failure(code=ErrorCode.BAD_CONFIG, message="No.", hint="Try."))
    failed = client.get(f"/v1/audits/{audit.id}/{name}")
    assert (failed.status_code, failed.json()["code"]) == (409, "audit_not_finished")
    assert "Retry-After" not in failed.headers
