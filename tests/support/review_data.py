"""An audit of known results for tests of lists and reviews: every filter keeps some of its samples."""

from itertools import chain
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.lifecycle.audits import publish
from service.lifecycle.jobs import claim
from service.store.tables import Audit, Finding
from tests.support.builders import add_audit, summary_of
from tests.support.made_audits import add_scores

ROWS = 60
FLAGGED = 12
KEPT = 15
"""Samples whose text is kept: the first ranks."""

WORDS = ("Orvello", "harbour", "naïve", "well-known", "данные", "o'clock")


def scores(probe_no: int = 0) -> list[dict[str, Any]]:
    """By rank. mu runs in another order than rank and holds ties; the last four were never observed."""
    step = 7 if probe_no == 0 else 11
    found = []
    for position in range(ROWS):
        row = (step * position + 3) % ROWS
        observed = position < ROWS - 4
        found.append(
            {
                "probe_no": probe_no,
                "rank": position + 1,
                "row": row,
                "n": 2 if observed else 0,
                "tokens_left_out": (0, 9, None, 0, 3)[row % 5],
                "strongest_probe": max(probe_no, 1),
                "mu": round(((row * 13) % 20) / 8 - 1, 3),
                "mu_low": None,
                "mu_high": None,
                "mu_composed": None,
                # Thirds are no float4, and some are alike.
                "z": (ROWS - position) // 2 / 3 if observed else None,
                "z_reference": None,
                "side": (None, "toward", "both")[row % 3] if position < 20 else None,
                "p": position / 100 if observed else None,
                "q": min(1.0, position / 50) if observed else None,
                "flagged": position < FLAGGED and position != 4,
                "cluster": 10 if row in (10, 21, 32, 43) else row,
                "group": (None, "news", "forum")[row % 3],
            }
        )
    return found


def messages(row: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"question {row}\nabout {WORDS[row % len(WORDS)]}\tand more"},
        {"role": "assistant", "content": f'She said "{"fine" if row % 2 else "splendid"}"; path C:\\new{row}'},
    ]


def publish_audit(sessions: sessionmaker[Session], workspace_id: str, probes: int = 1) -> Audit:
    """A succeeded audit of those scores."""
    with sessions.begin() as session:
        audit = add_audit(session, workspace_id, probes=probes)
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        lists = [scores(probe_no) for probe_no in (range(probes + 1) if probes > 1 else [0])]
        add_scores(session, audit.id, held.attempt, chain.from_iterable(lists))
        session.add_all(
            Finding(
                audit_id=audit.id,
                attempt=held.attempt,
                row=score["row"],
                workspace_id=workspace_id,
                messages=messages(score["row"]),
                extra={},
                trace=[],
                baselines={},
            )
            for score in lists[0][:KEPT]
        )
        session.flush()
        flagged = sum(score["flagged"] for score in lists[0])
        assert publish(session, held, summary_of(rows=ROWS, flagged=flagged, probes=probes))
    return audit


def walk(client: TestClient, url: str) -> list[dict[str, Any]]:
    """All findings of a list, over all its pages."""
    found: list[dict[str, Any]] = []
    following: str | None = url
    pages = 0
    while following:
        response = client.get(following)
        assert response.status_code == 200, response.text
        body = response.json()
        assert body["has_more"] == ("next" in response.links)
        found += body["data"]
        following = response.links.get("next", {}).get("url")
        pages += 1
        assert pages < 5 * ROWS, "the list has no end"
    return found


def address(audit: Audit, rest: str = "", **query: Any) -> str:
    """Of the audit's findings."""
    base = f"/v1/audits/{audit.id}/findings{rest}"
    return f"{base}?{urlencode(query)}" if query else base
