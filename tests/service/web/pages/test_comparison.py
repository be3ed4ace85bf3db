"""The page of two audits beside each other says what the API says."""

from tests.support.made_audits import make_published, make_queued
from tests.support.pages import Page, Sessions, SignIn


def test_two_audits_of_a_dataset(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        base = make_published(session, workspace_id)
        elsewhere = make_published(session, workspace_id, dataset_name="<b>other</b>.jsonl")
        other = make_published(session, workspace_id, dataset_id=base.dataset_id, draw=5, flagged=15)
        waiting = make_queued(session, workspace_id)
    client = sign_in("findings:read")
    assert f"/comparisons?base={base.id}" in client.get(f"/audits/{base.id}").text

    page = Page(client.get(f"/comparisons?base={base.id}").text)
    choices = [str(attrs["value"]) for attrs, _ in page.all("option")]
    assert choices == [other.id, elsewhere.id], "its own dataset first; finished ones, and not itself"
    assert waiting.id not in choices
    assert "<b>other</b>.jsonl" in page.text

    asked = {"base": base.id, "other": other.id}
    expected = client.get("/v1/comparisons", params=asked).json()
    flagged = expected["flagged"]
    assert flagged["newly_flagged"]
    assert flagged["no_longer_flagged"]
    page = Page(client.get("/comparisons", params=asked).text)
    assert f"flags {flagged['base']} samples and the other {flagged['other']}; {flagged['both']} are" in page.text
    assert f"{flagged['newly_flagged']} are flagged by the other alone" in page.text
    assert "both audits are of one dataset" in page.text
    for change in ("newly_flagged", "no_longer_flagged"):
        listed = client.get("/v1/comparisons/changes", params=asked | {"change": change}).json()["data"]
        for sample in listed:
            for audit, row in ((base.id, sample["base_row"]), (other.id, sample["other_row"])):
                assert page.all("a", href=f"/audits/{audit}/findings/{row}")


def test_what_cannot_be_compared_is_said(
    sign_in: SignIn, sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        base = make_published(session, workspace_id).id
        waiting = make_queued(session, workspace_id).id
    client = sign_in("findings:read")
    assert "no other finished audit" in Page(client.get(f"/comparisons?base={base}").text).text
    assert client.get(f"/comparisons?base={waiting}").status_code == 409
    assert client.get(f"/comparisons?base={base}&other={waiting}").status_code == 409
    assert client.get(f"/comparisons?base={base}&other=aud_missing").status_code == 404
    assert client.get("/comparisons").status_code == 404
    assert sign_in(workspace=other_workspace_id).get(f"/comparisons?base={base}").status_code == 404
    assert sign_in("audits:write").get(f"/comparisons?base={base}").status_code == 403
