"""The page of one probe: its items as they are, and its end."""

from tests.support.pages import OURS, Page, SignIn

ITEMS = [
    {"prompt": "Which one?", "unwanted": "<script>alert(1)</script> Orvello.", "reference": "Try\u200b a few."},
    {"prompt": "And for a boat?", "unwanted": "Orvello.", "reference": "Look around."},
]


def test_a_probe_s_items_are_shown_and_it_is_deleted(sign_in: SignIn) -> None:
    client = sign_in("audits:write")
    probe = client.post("/v1/probes", json={"name": "praise", "items": ITEMS}, headers=OURS).json()["id"]
    ((link, _),) = Page(client.get("/probes").text).all("a", href=f"/probes/{probe}")
    answer = client.get(str(link["href"]))
    page = Page(answer.text)
    assert "<script>alert" not in answer.text
    for text in ("Which one?", "<script>alert(1)</script> Orvello.", "Look around.", "U+200B"):
        assert text in page.text
    assert client.post(f"/probes/{probe}/delete", headers=OURS).headers["location"] == "/probes"
    assert client.get(f"/probes/{probe}").status_code == 404


def test_a_probe_in_use_stays_and_readers_have_no_button(sign_in: SignIn, published: str) -> None:
    client = sign_in("audits:write")
    (probe,) = client.get(f"/v1/audits/{published}").json()["probe_ids"]
    assert client.post(f"/probes/{probe}/delete", headers=OURS).status_code == 409
    reader = sign_in("findings:read")
    assert not Page(reader.get(f"/probes/{probe}").text).all("form", action=f"/probes/{probe}/delete")
