"""Every page needs a sign-in, and none takes a sample for markup."""

import re
from itertools import pairwise

import pytest
from fastapi.testclient import TestClient

from tests.support.made_audits import HOSTILE, make_published
from tests.support.pages import PICTURES, Page, Sessions, SignIn, every_page
from tests.support.summaries import make_group


def dataset_page(client: TestClient, audit_id: str) -> str:
    return f"/datasets/{client.get(f'/v1/audits/{audit_id}').json()['dataset_id']}"


def test_the_root_leads_to_the_audits(sign_in: SignIn) -> None:
    answer = sign_in().get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/audits")


def test_signed_out_visitors_learn_how_to_sign_in_and_nothing_else(app_client: TestClient, published: str) -> None:
    pages = [*every_page(published), *(f"/audits/{published}/{name}" for name in PICTURES)]
    for path in pages:
        answer = app_client.get(path)
        assert answer.status_code == 401, path
        page = Page(answer.text)
        assert "finetooth up" in page.text
        assert "one-time link" in page.text
        assert "chats.jsonl" not in answer.text


def test_a_session_that_ended_says_so(app_client: TestClient) -> None:
    app_client.cookies.set("finetooth_session", "x" * 43)
    answer = app_client.get("/audits")
    assert answer.status_code == 401
    assert "You are signed out" in Page(answer.text).text


def test_another_workspace_sees_nothing(sign_in: SignIn, published: str, other_workspace_id: str) -> None:
    client = sign_in(workspace=other_workspace_id)
    assert "No audit yet" in client.get("/audits").text
    for path in every_page(published)[1:5]:
        assert client.get(path).status_code == 404, path
    for name in PICTURES:
        assert client.get(f"/audits/{published}/{name}").status_code == 404


def test_samples_need_the_scope_for_findings(sign_in: SignIn, published: str) -> None:
    client = sign_in("audits:write")
    answer = client.get(f"/audits/{published}")
    assert answer.status_code == 200
    assert "Finetooth flags 21 of 120 samples" in answer.text
    assert "Question of row" not in answer.text
    for path in (f"/audits/{published}/findings", f"/audits/{published}/findings/3"):
        answer = client.get(path)
        assert answer.status_code == 403
        assert "findings:read" in answer.text
        assert "Question of row" not in answer.text


def test_no_page_holds_code_or_style_of_its_own(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for path in [*every_page(published), dataset_page(client, published)]:
        answer = client.get(path)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "no-store" in answer.headers["cache-control"]
        for tag, attributes, texts in Page(answer.text).elements:
            if tag == "script":
                assert re.match(r"/static/(app|new_audit|review|upload)\.js\?v=", attributes.get("src") or "")
                assert not "".join(texts).strip()
            assert tag not in ("style", "iframe", "object", "embed", "base"), (path, tag)
            for name, value in attributes.items():
                assert name != "style", (path, tag)
                assert not name.startswith("on"), (path, tag, name)
                if name in ("href", "src", "action", "srcset"):
                    assert re.match(r"[/#]", value or ""), (path, tag, value)


def test_hostile_samples_are_text_and_nothing_hides_in_them(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for row in range(len(HOSTILE)):
        answer = client.get(f"/audits/{published}/findings/{row}")
        assert answer.status_code == 200
        page = Page(answer.text)
        tags = {tag for tag, _, _ in page.elements}
        assert "style" not in tags
        assert ["".join(texts) for tag, _, texts in page.elements if tag == "textarea"] == ["", ""], "for notes"
        assert [attrs["src"] for attrs, _ in page.all("img")] == [
            f"/audits/{published}/findings/{row}/trace.svg?scheme=light"
        ]
        assert len(page.all("script")) == 2
        bare = re.sub(r"[\u202e\u202c\u200b\x07\u2066\u2069]", "", HOSTILE[row])
        text = page.all("ol", class_="turns")[0][1]
        shown = re.sub(r"U\+[0-9A-F]{4}", "", text)
        assert f"Question of row {row}: {bare}" in shown
        assert not re.search(r"[\u202e\u202c\u200b\x07\u2066\u2069]", answer.text)
    bidi = next(row for row, text in enumerate(HOSTILE) if "\u202e" in text)
    page = Page(client.get(f"/audits/{published}/findings/{bidi}").text)
    named = [(attrs["title"], text) for attrs, text in page.all("span", class_="hidden-character")]
    assert ("RIGHT-TO-LEFT OVERRIDE", "U+202E") in named
    assert ("ZERO WIDTH SPACE", "U+200B") in named
    assert "6 characters in this text would not show" in page.text


def test_hostile_names_are_text(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(
            session, workspace_id, dataset_name="<script>x</script>\u202e.jsonl", probes=2,
            groups={"<script>x</script>\u202e": make_group()},
        )  # fmt: skip
    client = sign_in()
    for path in [*every_page(audit.id)]:
        html = client.get(path).text
        assert "<script>x" not in html
        assert "\u202e" not in html


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_images_without_any_text_of_a_sample(sign_in: SignIn, published: str, name: str) -> None:
    client = sign_in()
    joint = "&" if "?" in name else "?"
    drawn = set()
    for scheme in ("light", "dark"):
        for width in ("wide", "narrow"):
            answer = client.get(f"/audits/{published}/{name}{joint}scheme={scheme}&width={width}")
            assert answer.headers["content-type"] == "image/svg+xml"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.text.startswith("<svg")
            for text in (*HOSTILE, "Question", "Orvello", "chats.jsonl", "forum"):
                assert text not in answer.text
            drawn.add(answer.text)
    assert len(drawn) == (4 if name.startswith(("histogram", "loss")) else 2)
    assert client.get(f"/audits/{published}/{name}{joint}scheme=pink").status_code == 404


def test_static_files_are_cached_for_ever_under_their_hash(app_client: TestClient) -> None:
    page = Page(app_client.get("/audits").text)
    files = [attrs["href"] for attrs, _ in page.all("link")] + [attrs["src"] for attrs, _ in page.all("script")]
    assert len(files) == 3
    for file in files:
        answer = app_client.get(str(file))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert app_client.get("/static/app.js").headers["cache-control"] == "no-cache"
    for path in ("/static/nothing.js", "/static/..%2ftemplates%2fbase.html", "/static/"):
        assert app_client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/audits/aud_missing", "/audits/{}/findings/999999", "/audits/{}/findings/x", "/audits/{}/findings?after=!"],
)
def test_what_is_not_there_is_a_page_that_leads_back(sign_in: SignIn, published: str, path: str) -> None:
    answer = sign_in().get(path.format(published))
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"].startswith("text/html")
    assert ("href", "/audits") in [item for _, attrs, _ in Page(answer.text).elements for item in attrs.items()]


def test_pages_are_not_part_of_the_api(sign_in: SignIn) -> None:
    paths = sign_in().get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path.startswith(("/audits", "/static", "/datasets", "/probes"))]


def test_headings_tables_and_controls_are_labelled(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    for path in [*every_page(published), dataset_page(client, published)]:
        page = Page(client.get(path).text)
        levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
        assert levels.count(1) == 1, path
        assert levels[0] == 1, path
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), (path, levels)
        assert len(page.all("main")) == 1
        assert len(page.all("table")) == len(page.all("caption"))
        assert all(attrs.get("alt") for attrs, _ in page.all("img"))
        assert all(attrs.get("aria-label") for attrs, _ in page.all("progress"))
        identifiers = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
        assert len(identifiers) == len(set(identifiers)), path
