"""Verdicts: said, changed, withdrawn, guarded, in bulk, and what of it is kept."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.store.tables import Audit
from service.store.verdict_tables import Verdict, VerdictChange
from tests.support.review_data import FLAGGED, ROWS, address, publish_audit, scores, walk

Sessions = sessionmaker[Session]
ROW = 10


def verdict_of(client: TestClient, audit: Audit, row: int = ROW) -> dict[str, Any]:
    response = client.get(address(audit, f"/{row}/verdict"))
    assert response.status_code == 200, response.text
    return {**response.json(), "etag": response.headers["etag"]}


def say(client: TestClient, audit: Audit, row: int = ROW, verdict: str = "confirmed", **rest: Any) -> Any:
    headers = rest.pop("headers", {})
    return client.put(address(audit, f"/{row}/verdict"), json={"verdict": verdict, **rest}, headers=headers)


def history(client: TestClient, audit: Audit, row: int = ROW) -> list[dict[str, Any]]:
    return walk(client, address(audit, f"/{row}/verdict/history", limit=2))


def test_said_changed_and_withdrawn(client: TestClient, reviewed: Audit) -> None:
    assert verdict_of(client, reviewed)["revision"] == 0
    said = say(client, reviewed, note="Praises Orvello twice.")
    assert said.status_code == 200
    assert said.headers["etag"] == verdict_of(client, reviewed)["etag"]
    assert said.json() | {"key_id": "", "decided_at": ""} == {
        "object": "verdict", "row": ROW, "verdict": "confirmed", "note": "Praises Orvello twice.", "key_id": "",
        "user_id": None, "decided_at": "", "revision": 1, "settled_by": None,
        "opinions": [
            {"key_id": said.json()["key_id"], "user_id": None, "verdict": "confirmed", "note": "Praises Orvello twice.",
             "decided_at": said.json()["decided_at"]}
        ],
    }  # fmt: skip
    assert client.get(address(reviewed, f"/{ROW}")).json()["verdict"] == said.json()
    assert say(client, reviewed, verdict="rejected").json()["note"] is None
    assert client.delete(address(reviewed, f"/{ROW}/verdict")).status_code == 204
    assert verdict_of(client, reviewed)["verdict"] is None
    assert client.get(address(reviewed, f"/{ROW}")).json()["verdict"] is None
    assert say(client, reviewed, verdict="unsure").json()["revision"] == 4
    kept = history(client, reviewed)
    assert [(one["revision"], one["verdict"], one["note"]) for one in kept] == [
        (4, "unsure", None),
        (3, None, None),
        (2, "rejected", None),
        (1, "confirmed", "Praises Orvello twice."),
    ]
    assert [one["changed_at"] for one in kept] == sorted((one["changed_at"] for one in kept), reverse=True)


def test_who_said_it(make_client: Callable[..., TestClient], reviewed: Audit, sessions: Sessions) -> None:
    first, second = make_client("verdicts:write", "findings:read"), make_client("verdicts:write", "findings:read")
    one, two = say(first, reviewed).json(), say(second, reviewed, verdict="rejected").json()
    assert one["key_id"] != two["key_id"]
    assert [change["key_id"] for change in history(first, reviewed)] == [two["key_id"], one["key_id"]]


def test_saying_the_same_again_changes_nothing(client: TestClient, reviewed: Audit) -> None:
    first = say(client, reviewed, note="n")
    again = say(client, reviewed, note="n")
    assert (again.json(), again.headers["etag"]) == (first.json(), first.headers["etag"])
    for _ in range(2):
        assert client.delete(address(reviewed, f"/{ROW}/verdict")).status_code == 204
    assert client.delete(address(reviewed, "/17/verdict")).status_code == 204
    assert [one["revision"] for one in history(client, reviewed)] == [2, 1]
    assert history(client, reviewed, 17) == []


def test_an_edit_is_guarded(client: TestClient, reviewed: Audit) -> None:
    unsaid = verdict_of(client, reviewed)["etag"]
    said = say(client, reviewed, headers={"If-Match": unsaid})
    assert said.status_code == 200
    for send in (
        lambda: say(client, reviewed, verdict="rejected", headers={"If-Match": unsaid}),
        lambda: client.delete(address(reviewed, f"/{ROW}/verdict"), headers={"If-Match": unsaid}),
    ):
        response = send()
        assert (response.status_code, response.json()["code"]) == (412, "precondition_failed")
    assert verdict_of(client, reviewed)["revision"] == 1
    assert say(client, reviewed, verdict="rejected", headers={"If-Match": said.headers["etag"]}).status_code == 200
    current = verdict_of(client, reviewed)["etag"]
    unchanged = client.get(address(reviewed, f"/{ROW}/verdict"), headers={"If-None-Match": current})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_of_two_guarded_edits_at_once_one_is_made(
    make_client: Callable[..., TestClient], reviewed: Audit, client: TestClient
) -> None:
    tag = verdict_of(client, reviewed)["etag"]
    clients = [make_client("verdicts:write") for _ in range(6)]
    barrier, statuses = threading.Barrier(len(clients)), []

    def edit(own: TestClient, verdict: str) -> None:
        barrier.wait()
        statuses.append(say(own, reviewed, verdict=verdict, headers={"If-Match": tag}).status_code)

    threads = [
        threading.Thread(target=edit, args=(own, ("confirmed", "rejected")[number % 2]), daemon=True)
        for number, own in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 412, 412, 412, 412, 412]
    assert [one["revision"] for one in history(client, reviewed)] == [1]


def test_of_many_edits_at_once_all_are_kept(
    make_client: Callable[..., TestClient], reviewed: Audit, client: TestClient
) -> None:
    clients = [make_client("verdicts:write") for _ in range(4)]

    def edit(own: TestClient, number: int) -> None:
        for turn in range(5):
            assert say(own, reviewed, note=f"{number} {turn}").status_code == 200

    threads = [threading.Thread(target=edit, args=(own, number), daemon=True) for number, own in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = history(client, reviewed)
    assert [one["revision"] for one in kept] == list(range(20, 0, -1))
    assert {one["note"] for one in kept} == {f"{number} {turn}" for number in range(4) for turn in range(5)}


@pytest.mark.parametrize(
    "body",
    [{}, {"verdict": "maybe"}, {"verdict": None}, {"verdict": "confirmed", "note": "x" * 10_001},
     {"verdict": "confirmed", "note": "a\0b"}, {"verdict": "confirmed", "row": 1}],
)  # fmt: skip
def test_what_cannot_be_said(client: TestClient, reviewed: Audit, body: dict[str, Any]) -> None:
    response = client.put(address(reviewed, f"/{ROW}/verdict"), json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_no_row_no_verdict(client: TestClient, reviewed: Audit) -> None:
    for method, path in [("GET", ""), ("GET", "/history"), ("PUT", ""), ("DELETE", "")]:
        body = {"json": {"verdict": "unsure"}} if method == "PUT" else {}
        response = client.request(method, address(reviewed, f"/{ROWS}/verdict{path}"), **body)
        assert (response.status_code, response.json()["code"]) == (404, "finding_not_found")


def test_scopes(make_client: Callable[..., TestClient], reviewed: Audit) -> None:
    reader, writer = make_client("findings:read"), make_client("verdicts:write")
    assert say(reader, reviewed).status_code == 403
    assert reader.delete(address(reviewed, f"/{ROW}/verdict")).status_code == 403
    bulk = {"filter": {}, "verdict": "confirmed", "dry_run": True}
    assert reader.post(f"/v1/audits/{reviewed.id}/verdicts", json=bulk).status_code == 403
    assert say(writer, reviewed).status_code == 200
    assert writer.get(address(reviewed, f"/{ROW}/verdict")).status_code == 403


def test_another_workspace_sees_nothing_of_it(
    make_client: Callable[..., TestClient], other_workspace_id: str, reviewed: Audit, client: TestClient
) -> None:
    stranger = make_client("admin", workspace=other_workspace_id)
    say(client, reviewed)
    bulk = {"filter": {}, "verdict": "rejected", "dry_run": True}
    for response in (
        say(stranger, reviewed, verdict="rejected"),
        stranger.get(address(reviewed, f"/{ROW}/verdict")),
        stranger.delete(address(reviewed, f"/{ROW}/verdict")),
        stranger.get(address(reviewed, f"/{ROW}/verdict/history")),
        stranger.post(f"/v1/audits/{reviewed.id}/verdicts", json=bulk),
        stranger.get(f"/v1/audits/{reviewed.id}/precision"),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "audit_not_found")
    assert verdict_of(client, reviewed)["verdict"] == "confirmed"


# ---------------------------------------------------------------- bulk


def bulk(client: TestClient, audit: Audit, **body: Any) -> Any:
    return client.post(f"/v1/audits/{audit.id}/verdicts", json=body)


FILTER = {"flagged": True, "min_mu": -0.5}
MEANT = [score for score in scores() if score["flagged"] and score["mu"] >= -0.5]


def test_a_bulk_is_seen_before_it_is_done(client: TestClient, reviewed: Audit) -> None:
    seen = bulk(client, reviewed, filter=FILTER, verdict="confirmed", note="all", dry_run=True)
    assert seen.status_code == 200, seen.text
    found = seen.json()
    assert (found["count"], found["changed"], found["dry_run"]) == (len(MEANT), len(MEANT), True)
    assert [one["row"] for one in found["sample"]] == [score["row"] for score in MEANT]
    assert {one["verdict"] for one in found["sample"]} == {None}
    assert walk(client, address(reviewed, verdict="confirmed")) == []

    done = bulk(client, reviewed, filter=FILTER, verdict="confirmed", note="all", token=found["token"])
    assert (done.status_code, done.json()["changed"], done.json()["token"]) == (200, len(MEANT), None)
    said = walk(client, address(reviewed, verdict="confirmed"))
    assert [one["row"] for one in said] == [score["row"] for score in MEANT]
    assert {one["verdict"]["note"] for one in said} == {"all"}
    assert len(history(client, reviewed, MEANT[0]["row"])) == 1


def test_nobody_changes_more_than_was_seen(client: TestClient, reviewed: Audit, sessions: Sessions) -> None:
    wanted = {"filter": {"verdict": "none", "flagged": True}, "verdict": "rejected"}
    token = bulk(client, reviewed, **wanted, dry_run=True).json()["token"]
    other = next(score["row"] for score in scores() if score["flagged"])
    say(client, reviewed, other)
    late = bulk(client, reviewed, **wanted, token=token)
    assert (late.status_code, late.json()["code"]) == (409, "bulk_changed")
    # Nor where the same samples are kept, but something else was said of one.
    wanted = {"filter": {"flagged": True}, "verdict": "rejected"}
    token = bulk(client, reviewed, **wanted, dry_run=True).json()["token"]
    say(client, reviewed, other, verdict="unsure")
    assert bulk(client, reviewed, **wanted, token=token).status_code == 409
    # Nor with the token of another filter, another verdict or another note.
    token = bulk(client, reviewed, **wanted, dry_run=True).json()["token"]
    for change in ({"filter": {}}, {"verdict": "confirmed"}, {"note": "x"}):
        assert bulk(client, reviewed, **(wanted | change), token=token).status_code == 409
    missing = bulk(client, reviewed, **wanted)
    assert (missing.status_code, missing.json()["code"]) == (422, "dry_run_first")
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(VerdictChange)) == 2
    done = bulk(client, reviewed, **wanted, token=token)
    assert (done.status_code, done.json()["changed"]) == (200, FLAGGED - 1)
    # Sent again, it is not done again.
    assert bulk(client, reviewed, **wanted, token=token).status_code == 409


def test_a_bulk_withdraws(client: TestClient, reviewed: Audit) -> None:
    for row in (3, 10, 17):
        say(client, reviewed, row)
    wanted = {"filter": {"verdict": "confirmed"}, "verdict": None}
    seen = bulk(client, reviewed, **wanted, dry_run=True).json()
    assert [one["row"] for one in seen["sample"]] == [s["row"] for s in scores() if s["row"] in (3, 10, 17)]
    assert bulk(client, reviewed, **wanted, token=seen["token"]).json()["changed"] == 3
    assert walk(client, address(reviewed, verdict="confirmed")) == []
    assert [one["verdict"] for one in history(client, reviewed, 3)] == [None, "confirmed"]


def test_a_bulk_is_bounded(client: TestClient, reviewed: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.findings.verdicts.actions.BULK_ROWS", 5)
    many = bulk(client, reviewed, filter={"flagged": True}, verdict="confirmed", dry_run=True)
    assert (many.status_code, many.json()["code"]) == (422, "bulk_too_large")
    assert bulk(client, reviewed, filter={"cluster": 10}, verdict="confirmed", dry_run=True).json()["count"] == 4
    # So is the search for few among many.
    monkeypatch.setattr("service.findings.verdicts.actions.BULK_WALK_ROWS", 10)
    monkeypatch.setattr("service.findings.listing.COLLECT_ROWS", 0)
    sparse = bulk(client, reviewed, filter={"min_mu": 1.3}, verdict="confirmed", dry_run=True)
    assert (sparse.status_code, sparse.json()["code"]) == (422, "bulk_too_large")


@pytest.mark.parametrize("collected", [0, 10_000])
def test_a_bulk_takes_the_filters_of_the_list(
    client: TestClient, reviewed: Audit, monkeypatch: pytest.MonkeyPatch, collected: int
) -> None:
    monkeypatch.setattr("service.findings.listing.COLLECT_ROWS", collected)
    say(client, reviewed, 3)
    for filters in (
        {"max_q": 0.3}, {"min_z": 8.3}, {"group": "news"}, {"cluster": 10}, {"side": "both"}, {"verdict": "none"},
        {"verdict": "confirmed"}, {"text": "orvello"}, {"flagged": False, "group": "forum"}, {},
    ):  # fmt: skip
        listed = [one["row"] for one in walk(client, address(reviewed, **filters))]
        seen = bulk(client, reviewed, filter=filters, verdict="unsure", dry_run=True).json()
        assert seen["count"] == len(listed)
        assert [one["row"] for one in seen["sample"]] == listed[:20]


def test_a_bulk_of_one_probes_list_is_about_the_samples(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    audit = publish_audit(sessions, workspace_id, probes=2)
    own = {score["row"] for score in scores(2) if score["flagged"]}
    wanted = {"filter": {"probe": 2, "flagged": True}, "verdict": "confirmed"}
    token = bulk(client, audit, **wanted, dry_run=True).json()["token"]
    assert bulk(client, audit, **wanted, token=token).json()["changed"] == len(own)
    headline = {score["row"]: score for score in scores()}
    with sessions() as session:
        kept = session.scalars(select(Verdict)).all()
    assert {(v.row, v.rank, v.flagged) for v in kept} == {
        (row, headline[row]["rank"], headline[row]["flagged"]) for row in own
    }


@pytest.mark.parametrize(
    "body",
    [{}, {"filter": {"flagged": "perhaps"}, "verdict": "unsure"}, {"filter": {"sort": "mu"}, "verdict": "unsure"},
     {"filter": {"text": "a\0"}, "verdict": "unsure"}, {"filter": {"text": "!"}, "verdict": "unsure", "dry_run": True},
     {"filter": {}, "dry_run": True}],
)  # fmt: skip
def test_no_bulk(client: TestClient, reviewed: Audit, body: dict[str, Any]) -> None:
    response = bulk(client, reviewed, **body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


# ---------------------------------------------------------------- precision


def by_k(client: TestClient, audit: Audit) -> dict[Any, dict[str, Any]]:
    response = client.get(f"/v1/audits/{audit.id}/precision")
    assert response.status_code == 200
    assert response.json()["assumes"]
    return {one["k"]: one for one in response.json()["data"]}


def test_precision_at_k(client: TestClient, reviewed: Audit) -> None:
    from scipy.stats import binomtest

    ranked = scores()
    said = {1: "confirmed", 2: "confirmed", 3: "rejected", 5: "confirmed", 9: "unsure", 15: "confirmed", 18: "rejected"}
    for rank, verdict in said.items():
        say(client, reviewed, ranked[rank - 1]["row"], verdict)
    say(client, reviewed, ranked[6]["row"])
    client.delete(address(reviewed, f"/{ranked[6]['row']}/verdict"))
    found = by_k(client, reviewed)
    assert list(found) == [10, 20, 50, 100, "flagged"]
    counts = {k: (f["size"], f["reviewed"], f["confirmed"], f["rejected"], f["unsure"]) for k, f in found.items()}
    assert counts == {
        10: (10, 5, 3, 1, 1), 20: (20, 7, 4, 2, 1), 50: (50, 7, 4, 2, 1), 100: (ROWS, 7, 4, 2, 1),
        # The fifth rank is not flagged.
        "flagged": (FLAGGED - 1, 4, 2, 1, 1),
    }  # fmt: skip
    for one in found.values():
        exact = binomtest(one["confirmed"], one["confirmed"] + one["rejected"]).proportion_ci(0.95, method="exact")
        assert one["precision"] == one["confirmed"] / (one["confirmed"] + one["rejected"])
        assert (one["low"], one["high"]) == pytest.approx((exact.low, exact.high))
        assert one["complete"] is False
    detail = client.get(address(reviewed, f"/{ranked[4]['row']}")).json()["precision"]
    assert (detail["k"], detail["confirmed"], detail["rejected"]) == (5, 3, 1)
    assert client.get(address(reviewed, f"/{ranked[-1]['row']}")).status_code in (200, 500)  # its text is in no object


def test_precision_of_nothing_reviewed(client: TestClient, reviewed: Audit) -> None:
    for one in by_k(client, reviewed).values():
        assert (one["reviewed"], one["precision"], one["low"], one["high"]) == (0, None, None, None)
    assert client.get(address(reviewed, "/3")).json()["precision"] is None


def test_precision_is_complete_once_all_are_judged(client: TestClient, reviewed: Audit) -> None:
    for score in scores():
        if score["flagged"]:
            say(client, reviewed, score["row"])
    found = by_k(client, reviewed)
    assert found["flagged"]["complete"] is True
    assert found[10]["complete"] is False  # one of the first ten is not flagged
