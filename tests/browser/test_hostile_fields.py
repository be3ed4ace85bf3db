"""Whatever anybody can type or send is text on every page: nothing runs, and the policy is never violated."""

from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from service.keys.secrets import create_key
from service.store.tables import Dataset, Model, Probe
from tests.support.builders import add_person
from tests.support.made_audits import make_published
from tests.support.summaries import make_group

pytestmark = pytest.mark.browser

Sessions = sessionmaker[Session]
OpenPage = Callable[..., Page]

CORPUS = (
    "<script>window.ran='script'</script>",
    "<img src=x onerror=\"window.ran='img'\">",
    "\"><svg onload=window.ran='svg'>",
    "' autofocus onfocus=window.ran='focus' x='",
    "</textarea></title></select><iframe srcdoc=\"<script>parent.ran='frame'</script>\">",
    "javascript:window.ran='link'",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.ran='math'>",
    "{{constructor.constructor('window.ran=1')()}}",
    "<a href=\"&#106;avascript:window.ran='entity'\">x</a>",
    "<link rel=stylesheet href=//example.org/x.css><base href=//example.org/>",
)
ALL = "".join(CORPUS)


def visit(page: Page, path: str) -> None:
    """Goes there and gives what would run a moment for it, without waiting for pictures."""
    page.goto(path, wait_until="domcontentloaded", timeout=60_000)
    page.wait_for_timeout(100)


@pytest.mark.timeout(900)
def test_no_text_runs_wherever_it_was_put_in(
    signed_in: OpenPage, sessions: Sessions, workspace_id: str, complaints: list[str]
) -> None:
    with sessions.begin() as session:
        audit = make_published(
            session, workspace_id, dataset_name=ALL, texts=CORPUS, probes=2, groups={ALL: make_group()}
        )
        session.execute(update(Dataset).values(columns=[ALL]))
        session.execute(update(Probe).values(name=ALL))
        session.execute(update(Model).where(Model.id == audit.model_id).values(name=ALL))
        create_key(session, workspace_id=workspace_id, name=ALL[:200], scopes=["admin"])
        other = make_published(session, workspace_id, dataset_id=audit.dataset_id, draw=2)
        items = [{"prompt": text, "unwanted": text, "reference": text} for text in CORPUS]
        session.execute(update(Probe).values(items=items))
        probe = session.scalars(select(Probe.id)).first()
        add_person(session, workspace_id, "reviewer", name=ALL)
    page = signed_in()
    violations: list[str] = []
    page.expose_function("violated", lambda directive: violations.append(directive))
    page.add_init_script("addEventListener('securitypolicyviolation', (event) => violated(event.violatedDirective))")
    base = f"/audits/{audit.id}"
    for number in range(len(CORPUS)):
        visit(page, f"{base}/findings/{number}")
        page.get_by_label("Note").first.fill(CORPUS[number])
        page.get_by_role("button", name="Confirm").click()
        expect(page.locator(".judge [aria-pressed=true]")).to_have_count(1)
    query = quote(ALL[:200])
    fields = urlencode(dict.fromkeys(("key", "object"), ALL[:200]))
    for path in (
        "/audits", f"/audits?search={query}", base, f"{base}/findings", f"{base}/findings?group={quote(ALL)}",
        f"{base}/findings?text={query}", *(f"{base}/findings/{number}" for number in range(len(CORPUS))),
        f"{base}/exports", f"/comparisons?base={audit.id}&other={other.id}", "/datasets",
        f"/datasets/{audit.dataset_id}", "/probes", f"/probes/{probe}", "/models", "/keys", "/people",
        f"/audits/new?copy={audit.id}", "/workers", "/sessions",
        f"/audit-log?{fields}", "/audit-log", f"/v1/audits/{audit.id}/report",
    ):  # fmt: skip
        visit(page, path)
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        assert page.evaluate("window.ran") is None, path
        assert page.evaluate("document.querySelectorAll('iframe, base, math, [onerror], [onload]').length") == 0, path
        links = "[...document.links].filter((link) => !/^https?:$/.test(link.protocol)).map((link) => link.href)"
        assert page.evaluate(links) == [], path

    # The form of a new audit gives back what was typed.
    visit(page, "/audits/new")
    page.get_by_text("Items of your own").click()
    for field in page.locator("#audit-form input:not([type]), #audit-form textarea").all():
        if field.is_visible():
            field.fill(ALL[:150])
    page.get_by_role("button", name="Check", exact=True).last.click()
    expect(page.locator("#wrong")).to_be_visible()
    assert page.evaluate("window.ran") is None
    assert violations == []
    complaints[:] = [line for line in complaints if "422" not in line]
