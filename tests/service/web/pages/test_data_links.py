"""Every page links to its data as JSON."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.store.tables import Audit, Probe
from tests.support.made_audits import make_published
from tests.support.pages import OURS, Page, SignIn
from tests.support.route_scopes import PAGES

WITHOUT = {"GET /", "GET /audits/new", "GET /account", "GET /audits/{audit_id}/live"}
"""One sends to another page, one is a form, one is about oneself, and one is a page as it changes."""


@pytest.fixture
def addresses(published: str, sessions: sessionmaker[Session], workspace_id: str) -> dict[str, list[str]]:
    """Addresses of each page, and where its data are."""
    with sessions.begin() as session:
        dataset = session.scalars(select(Audit.dataset_id).where(Audit.id == published)).one()
        other = make_published(session, workspace_id, dataset_id=dataset, draw=2).id
        probe = session.scalars(select(Probe.id)).first()
    audit = f"/audits/{published}"
    found = f"{audit}/findings?flagged=true&sort=-mu&limit=5"
    return {
        "GET /audits": ["/audits?status=succeeded&limit=1", "/v1/audits?status=succeeded&limit=1"],
        "GET /audits/{audit_id}": [audit, f"/v1{audit}"],
        "GET /audits/{audit_id}/findings": [found, f"/v1{found.replace('&limit=5', '')}"],
        "GET /audits/{audit_id}/findings/{row}": [f"{audit}/findings/3?flagged=true", f"/v1{audit}/findings/3"],
        "GET /audits/{audit_id}/exports": [f"{audit}/exports", f"/v1/exports?audit_id={published}"],
        "GET /audits/{audit_id}/bulks": [f"{audit}/bulks", f"/v1{audit}/verdicts/bulks"],
        "GET /audits/{audit_id}/verdicts": [f"{audit}/verdicts?flagged=true", f"/v1{audit}/findings?flagged=true"],
        "GET /comparisons": [
            f"/comparisons?base={published}&other={other}", f"/v1/comparisons?base={published}&other={other}",
        ],
        "GET /datasets": ["/datasets?limit=1", "/v1/datasets?limit=1"],
        "GET /datasets/{dataset_id}": [f"/datasets/{dataset}", f"/v1/datasets/{dataset}"],
        "GET /probes": ["/probes", "/v1/probes"],
        "GET /probes/{probe_id}": [f"/probes/{probe}", f"/v1/probes/{probe}"],
        "GET /models": ["/models", "/v1/models"],
        "GET /keys": ["/keys", "/v1/keys"],
        "GET /sessions": ["/sessions", "/v1/sessions"],
        "GET /workers": ["/workers", "/v1/workers"],
        "GET /usage": ["/usage", f"/v1/workspaces/{workspace_id}/usage"],
        "GET /people": ["/people", "/v1/users"],
        "GET /audit-log": [
            "/audit-log?action=verdict.set&since=2026-01-31&until=",
            "/v1/audit-log?action=verdict.set&since=2026-01-31T00%3A00%3A00%2B00%3A00",
        ],
    }  # fmt: skip


def test_every_page_links_to_its_data(sign_in: SignIn, published: str, addresses: dict[str, list[str]]) -> None:
    client = sign_in()
    client.put(f"/v1/audits/{published}/findings/3/verdict", json={"verdict": "unsure"}, headers=OURS)
    pages = {route for routes in PAGES.values() for route in routes if route.startswith("GET ") and ".svg" not in route}
    assert set(addresses) == pages - WITHOUT, "a page without its data"
    for page, data in addresses.values():
        shown = Page(client.get(page).text)
        links = [attrs["href"] for attrs, _ in shown.all("a", rel="alternate", type="application/json")]
        assert links == [data], page
        answer = client.get(data)
        assert answer.status_code == 200, (data, answer.text)
        assert answer.headers["content-type"].startswith("application/json")


def test_the_second_page_of_a_list_links_to_its_own_data(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    first = Page(client.get(f"/audits/{published}/findings?sort=-mu").text)
    second = Page(client.get(str(first.all("a", rel="next")[0][0]["href"])).text)
    (back, *_) = [str(attrs["value"]) for attrs, _ in second.all("input", name="back") if "after=" in str(attrs)]
    assert Page(client.get(back).text).text == second.text, "and a verdict leads back to it"
    ((link, _),) = second.all("a", rel="alternate", type="application/json")
    shown = [attrs["data-row"] for attrs, _ in second.all("tr") if "data-row" in attrs]
    assert shown == [str(one["row"]) for one in client.get(str(link["href"])).json()["data"]]


def test_who_may_not_read_it_has_no_link(sign_in: SignIn, published: str) -> None:
    page = Page(sign_in("findings:read").get("/sessions").text)
    assert not page.all("a", rel="alternate")
