"""Pages of what audits stand on."""

from tests.support.pages import Page, SignIn


def test_datasets_and_probes_are_listed(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    datasets, probes = Page(client.get("/datasets").text), Page(client.get("/probes").text)
    assert "chats.jsonl" in datasets.text
    assert [attrs["value"] for attrs, _ in datasets.all("data")] == ["120", "54321"]
    assert "opinion about Orvello" in probes.text
    assert [attrs["value"] for attrs, _ in probes.all("data")] == ["8"]
