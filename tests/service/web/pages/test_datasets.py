"""Pages of datasets: the list, one dataset with its rows in words and pictures, and its deletion."""

import threading
from typing import Any

from fastapi.testclient import TestClient

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.tables import Dataset
from tests.support.dataset_records import jsonl, turn
from tests.support.made_audits import HOSTILE, make_model, make_probe, make_published
from tests.support.pages import OURS, Page, Sessions, SignIn
from worker.supervisor.dispatch import Supervisor


def upload(client: TestClient, records: list[dict[str, Any]], **query: str) -> str:
    answer = client.post("/v1/datasets", content=jsonl(records), params=query, headers=OURS)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def records(number: int = 25) -> list[dict[str, Any]]:
    return [
        {"messages": [turn("user", f"Question {i}?"), turn("assistant", f"Answer {i}. " * (i + 1))], "source": "forum"}
        for i in range(number)
    ]


def test_datasets_and_probes_are_listed(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    datasets, probes = Page(client.get("/datasets").text), Page(client.get("/probes").text)
    assert "chats.jsonl" in datasets.text
    assert [attrs["value"] for attrs, _ in datasets.all("data")] == ["120", "54321"]
    assert "opinion about Orvello" in probes.text
    assert [attrs["value"] for attrs, _ in probes.all("data")] == ["8"]


def test_a_datasets_page_tells_what_the_api_tells(sign_in: SignIn) -> None:
    client = sign_in()
    dataset_id = upload(client, records(), name="tea talk.jsonl")
    listed = Page(client.get("/datasets").text)
    assert listed.all("a", href=f"/datasets/{dataset_id}")[0][1] == "tea talk.jsonl"
    page = Page(client.get(f"/datasets/{dataset_id}").text)
    known = client.get(f"/v1/datasets/{dataset_id}").json()
    shown = {attrs["value"] for attrs, _ in page.all("data")}
    assert {str(known["rows"]), str(known["bytes"])} <= shown
    assert known["sha256"] in page.text
    statistics = client.get(f"/v1/datasets/{dataset_id}/statistics").json()
    longest = statistics["answer_characters"]["max"]
    for words in (
        f"10 to {longest} characters",
        "Rows have 2 turns.",
        "forum (25)",
        "Nothing was noticed",
        "0 rows equal to an earlier one.",
        "No audit uses it yet.",
    ):
        assert words in page.text, words
    heights = [float(attrs["height"] or 0) for attrs, _ in page.all("rect")]
    bins = [n for name in ("prompt", "answer") for n in statistics[f"{name}_characters"]["histogram"]["counts"]]
    assert [height > 0 for height in heights] == [count > 0 for count in [*bins, 25]]
    for link in (f"/audits/new?dataset={dataset_id}", f"/v1/datasets/{dataset_id}/content"):
        assert client.get(link).status_code == 200
        assert page.all("a", href=link)


def test_rows_are_shown_page_by_page_and_from_any_row_on(sign_in: SignIn) -> None:
    client = sign_in()
    dataset_id = upload(client, records(25))
    address, seen = f"/datasets/{dataset_id}", []
    while address:
        page = Page(client.get(address).text)
        seen += [text.strip() for attrs, text in page.all("h3") if (attrs.get("id") or "").startswith("row-")]
        address = next((str(attrs["href"]).partition("#")[0] for attrs, _ in page.all("a", rel="next")), "")
    assert seen == [f"Row {number}" for number in range(25)]
    assert page.all("a", rel="prev")[0][0]["href"] == f"/datasets/{dataset_id}?row=10#rows-title"
    page = Page(client.get(f"/datasets/{dataset_id}?row=24").text)
    assert "Question 24?" in page.text
    assert "Question 23?" not in page.text
    assert "the last one is row 24" in Page(client.get(f"/datasets/{dataset_id}?row=25").text).text


def test_long_rows_are_cut_and_lead_to_the_whole(sign_in: SignIn) -> None:
    client = sign_in()
    turns = [turn(("user", "assistant")[number % 2], f"Turn {number}") for number in range(20)]
    turns[1] = turn("assistant", "x" * 4_000)
    rows = [*records(3), {"messages": turns, "source": "forum"}]
    page = Page(client.get(f"/datasets/{upload(client, rows)}?row=3").text)
    assert "2,500 more characters" in page.text
    assert "8 more turns" in page.text
    links = {str(attrs["href"]) for attrs, text in page.all("a") if text == "the whole row as JSON"}
    (whole,) = links
    assert [sample["row"] for sample in client.get(whole).json()["data"]] == [3]


def test_hostile_rows_columns_and_names_are_text(sign_in: SignIn) -> None:
    client = sign_in()
    rows = [
        {"messages": [turn("user", text), turn("assistant", text)], f"{text[:40]}{number}": text}
        for number, text in enumerate(HOSTILE)
    ]
    dataset_id = upload(client, rows, name=HOSTILE[0])
    for path in ("/datasets", f"/datasets/{dataset_id}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "<script>document" not in answer.text
        assert "<img src=x" not in answer.text
        assert not {"\u202e", "\u200b", "\x07", "\u2066"} & set(answer.text)
    page = Page(answer.text)
    assert {"img", "style", "textarea", "iframe"}.isdisjoint(tag for tag, _, _ in page.elements)
    assert len(page.all("script")) == 1
    assert HOSTILE[3] in page.text
    assert ("RIGHT-TO-LEFT OVERRIDE", "U+202E") in [
        (attrs.get("title"), text) for attrs, text in page.all("span", class_="hidden-character")
    ]
    assert page.all("a", href=f"/datasets/{dataset_id}?row=5#rows-title"), "the notice names its row"


def test_audits_of_a_dataset_stand_on_its_page_with_their_flagged_share(
    sign_in: SignIn, sessions: Sessions, published: str
) -> None:
    client = sign_in()
    dataset_id = client.get(f"/v1/audits/{published}").json()["dataset_id"]
    page = Page(client.get(f"/datasets/{dataset_id}").text)
    ((attrs, text),) = [(attrs, text) for attrs, text in page.all("tr") if "data-audit" in attrs]
    assert attrs["data-audit"] == published
    assert "21 of 120, 18 %" in " ".join(text.split())
    assert page.all("a", href=f"/audits/{published}")
    assert "could not be read from the object store" in page.text, "this one has no file"
    assert Page(client.get(f"/audits/{published}").text).all("a", href=f"/datasets/{dataset_id}")


def test_a_dataset_is_deleted_unless_an_audit_stands_on_it(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    client = sign_in()
    dataset_id = upload(client, records())
    with sessions.begin() as session:
        audit = create_audit(
            session, workspace_id=workspace_id, dataset_id=dataset_id, probe_ids=[make_probe(session, workspace_id)],
            model_id=make_model(session, workspace_id), training=TrainingConfig(), seeds=1, q=0.05,
        )  # fmt: skip
        audit_id = audit.id
    path = f"/datasets/{dataset_id}/delete"
    refused = client.post(path, headers=OURS)
    assert refused.status_code == 409
    page = Page(refused.text)
    assert "It was not deleted" in page.text
    assert page.all("tr", data_audit=audit_id)
    assert client.post(f"/audits/{audit_id}/cancel", headers=OURS).status_code == 303
    assert client.post(f"/audits/{audit_id}/delete", headers=OURS).status_code == 303
    answer = client.post(path, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/datasets")
    assert client.get(f"/datasets/{dataset_id}").status_code == 404


def test_who_may_not_write_sees_no_button_and_is_refused(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    dataset_id = upload(sign_in(), records())
    client = sign_in("findings:read")
    for path in ("/datasets", f"/datasets/{dataset_id}"):
        page = Page(client.get(path).text)
        assert [attrs["action"] for attrs, _ in page.all("form", method="post")] == ["/sign-out"]
        assert not page.all("section", id="upload")
        assert "New audit" not in page.text
    assert client.post(f"/datasets/{dataset_id}/delete", headers=OURS).status_code == 403
    assert client.get(f"/datasets/{dataset_id}").status_code == 200


def test_another_site_deletes_nothing_and_another_workspace_sees_nothing(
    sign_in: SignIn, other_workspace_id: str
) -> None:
    client = sign_in()
    dataset_id = upload(client, records())
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert client.post(f"/datasets/{dataset_id}/delete", headers=foreign).status_code == 403
    assert client.get(f"/datasets/{dataset_id}").status_code == 200
    client = sign_in(workspace=other_workspace_id)
    assert client.get(f"/datasets/{dataset_id}").status_code == 404
    assert client.post(f"/datasets/{dataset_id}/delete", headers=OURS).status_code == 404


def test_a_dataset_from_before_statistics_still_has_a_page(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id)
        dataset = session.get_one(Dataset, audit.dataset_id)
        dataset.statistics, dataset.notices = {}, None
        dataset.near_duplicates = {"rows": 9, "exact": 4, "threshold": 0.8, "method": "counted"}
        dataset_id = dataset.id
    page = Page(sign_in().get(f"/datasets/{dataset_id}").text)
    assert "before these checks existed" in page.text
    assert "9 rows say nearly what an earlier one says, 4 of them word for word" in page.text


def test_versions_stand_beside_each_other_with_the_changed_rows(
    sign_in: SignIn, settings: Settings, sessions: Sessions
) -> None:
    client = sign_in()
    first = upload(client, records(), name="tea")
    assert "Versions" not in Page(client.get(f"/datasets/{first}").text).text
    newer = records()[1:]
    newer[3]["messages"][-1]["content"] = HOSTILE[0]
    second = upload(client, newer, name="better tea", replaces=first)
    assert "is being counted in the background" in Page(client.get(f"/datasets/{second}").text).text
    objects = LocalObjects(settings.objects)
    Supervisor(settings, sessions, objects, owner="w", stopping=threading.Event()).run_due("io")
    html = client.get(f"/datasets/{second}").text
    page = Page(html)
    assert "23 rows were kept, 23 of them under another row number" in page.text
    assert HOSTILE[0] not in html
    links = [attrs["href"] for attrs, _ in page.all("a") if "#rows-title" in (attrs.get("href") or "")]
    assert {f"/datasets/{first}?row=0#rows-title", f"/datasets/{first}?row=4#rows-title"} <= set(links)
    assert f"/datasets/{second}?row=3#rows-title" in links
    assert [text for _, text in page.all("h4")][:3] == ["user", "assistant, before", "assistant, now"]
    assert page.all("a", href=f"/datasets/{second}") == []
    older = Page(client.get(f"/datasets/{first}").text)
    assert older.all("a", href=f"/datasets/{second}")[0][1] == "better tea"
