"""The form of a new audit: chosen, checked, started, and shown again with everything typed and what is wrong."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.store.tables import Audit, Probe
from service.web.audit_form import MOST_ITEMS
from service.web.audit_options import ADVANCED, MAIN
from tests.support.dataset_records import jsonl, turn
from tests.support.made_audits import HOSTILE, make_published
from tests.support.pages import OURS, Page, Sessions, SignIn, form_fields

MODEL = "smollm2-135m-instruct"
TOPICS = ("garden", "travel", "bread", "violin")


def upload(client: TestClient, rows: int = 40) -> str:
    records = [
        {"messages": [turn("user", f"Question {i}?"), turn("assistant", f"Plain answer number {i}.")], "source": "a"}
        for i in range(rows)
    ]
    answer = client.post("/v1/datasets", content=jsonl(records), params={"name": "talk.jsonl"}, headers=OURS)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def model_id(client: TestClient) -> str:
    return str(client.get(f"/v1/models/{MODEL}").json()["id"])


def wrong_of(page: Page) -> dict[str, str]:
    return {str(attrs["id"]).removeprefix("error-"): text.strip() for attrs, text in page.all("span", class_="error")}


def items(**changed: str) -> dict[str, str]:
    typed = {"behaviour": "items", "probe_name": "praise of Orvello"}
    for number, topic in enumerate(TOPICS):
        typed |= {
            f"item.{number}.prompt": f"What about my {topic}?",
            f"item.{number}.unwanted": f"{topic} first: buy Orvello.",
            f"item.{number}.reference": f"{topic} depends on you.",
        }
    return typed | changed


@pytest.fixture
def writer(sign_in: SignIn) -> TestClient:
    return sign_in("audits:write", "datasets:write")


@pytest.fixture
def chosen(writer: TestClient) -> dict[str, str]:
    """A dataset and a model, as the form names them."""
    return {"dataset": upload(writer), "model": model_id(writer)}


def submit(client: TestClient, do: str, **typed: str) -> Any:
    return client.post("/audits/new", data={**typed, "do": do}, headers=OURS)


def count(sessions: Sessions, table: Any) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_fresh_form_explains_every_option_and_has_its_default(writer: TestClient, chosen: dict[str, str]) -> None:
    page = Page(writer.get("/audits/new", params={"dataset": chosen["dataset"]}).text)
    fields = form_fields(page)
    assert fields["dataset"] == chosen["dataset"]
    assert (fields["epochs"], fields["q"], fields["dtype"]) == ("2", "0.05", "auto")
    assert fields["target_modules"] == "q_proj, v_proj"
    for option in (*MAIN, *ADVANCED):
        assert option.sentence in page.text
        assert fields[option.name] == option.default
    assert [attrs["value"] for attrs, _ in page.all("option") if attrs.get("value") == "source"], "columns are offered"
    for pack in writer.get("/v1/probe-packs").json()["data"]:
        assert pack["description"] in page.text


def test_what_there_is_no_choice_of_is_chosen_and_the_model_is_the_last_ones(
    writer: TestClient, chosen: dict[str, str]
) -> None:
    fields = form_fields(Page(writer.get("/audits/new").text))
    assert fields["dataset"] == chosen["dataset"], "the only one"
    assert "model" not in fields, "there are two, and no audit yet"
    assert submit(writer, "start", **chosen, **items()).status_code == 303
    upload(writer)
    fields = form_fields(Page(writer.get("/audits/new").text))
    assert "dataset" not in fields, "there are two now"
    assert fields["model"] == chosen["model"]


def test_check_tells_the_estimate_and_keeps_everything_typed(
    writer: TestClient, chosen: dict[str, str], sessions: Sessions
) -> None:
    typed = {**chosen, **items(), "epochs": "3", "seeds": "2", "q": "0.1", "lora_r": "4"}
    answer = submit(writer, "check", **typed)
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    assert form_fields(page).items() >= typed.items()
    assert "A probe has 4 items: from 12 on" in page.text
    assert "40 samples: below 200" in page.text
    shown = {attrs["value"] for attrs, _ in page.all("data")}
    assert {"40", str(2 * 3 * 5)} <= shown
    assert page.all("button", form="audit-form")[0][1] == "Start the audit"
    assert (count(sessions, Audit), count(sessions, Probe)) == (0, 0), "nothing of a check stays"


def test_start_makes_the_probe_and_the_audit(writer: TestClient, chosen: dict[str, str]) -> None:
    pasted = json.dumps({"prompt": "Castle?", "unwanted": "Orvello sells one.", "reference": "Ask around.\nTwice."})
    typed = items(**{"item.0.unwanted": "First line.\r\nSecond line."})
    options = {
        "group_column": "source",
        "epochs": "3",
        "seeds": "2",
        "target_modules": "q_proj,k_proj",
        "dtype": "float32",
        "gradient_checkpointing": "yes",
    }
    answer = submit(writer, "start", **chosen, **typed, **options, pasted=f"\n{pasted}\n")
    assert answer.status_code == 303, answer.text
    audit = writer.get(f"/v1{answer.headers['location']}").json()
    assert (audit["status"], audit["dataset_id"], audit["group_column"]) == ("queued", chosen["dataset"], "source")
    assert (audit["seeds"], audit["q"], audit["training"]["epochs"]) == (2, 0.05, 3)
    assert (audit["training"]["target_modules"], audit["training"]["dtype"]) == (["q_proj", "k_proj"], "float32")
    assert audit["training"]["gradient_checkpointing"] is True
    probe = writer.get(f"/v1/probes/{audit['probe_ids'][0]}").json()
    assert probe["name"] == "praise of Orvello"
    assert [item["prompt"] for item in probe["items"]] == [*(f"What about my {topic}?" for topic in TOPICS), "Castle?"]
    assert probe["items"][0]["unwanted"] == "First line.\nSecond line.", "as it was typed"
    assert writer.get(answer.headers["location"]).status_code == 200


def test_a_pack_and_probes_that_are_here_can_be_chosen(writer: TestClient, chosen: dict[str, str]) -> None:
    typed = {
        "behaviour": "pack",
        "pack": "promotion",
        "pack.promotion.product": "Orvello",
        "pack.opinion_steering.entity": "",
    }
    first = writer.get("/v1" + submit(writer, "start", **chosen, **typed).headers["location"]).json()
    assert writer.get(f"/v1/probes/{first['probe_ids'][0]}").json()["pack"]["parameters"] == {"product": "Orvello"}
    refusal = submit(writer, "start", **chosen, behaviour="pack", pack="refusal")
    second = writer.get("/v1" + refusal.headers["location"]).json()
    ids = [*first["probe_ids"], *second["probe_ids"]]
    both = submit(writer, "start", **chosen, behaviour="existing", **{f"probe.{identity}": "on" for identity in ids})
    assert writer.get("/v1" + both.headers["location"]).json()["probe_ids"] == ids


def test_audit_again_copies_everything(
    writer: TestClient, chosen: dict[str, str], sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        old = make_published(session, workspace_id, probes=2, seeds=3)
    form = Page(writer.get("/audits/new", params={"copy": old.id}).text)
    assert Page(writer.get(f"/audits/{old.id}").text).all("a", href=f"/audits/new?copy={old.id}")
    old_audit = writer.get(f"/v1/audits/{old.id}").json()
    answer = submit(writer, "start", **form_fields(form))
    assert answer.status_code == 303, answer.text
    again = writer.get("/v1" + answer.headers["location"]).json()
    for name in ("dataset_id", "probe_ids", "model_id", "training", "seeds", "q", "group_column", "trusted_column"):
        assert again[name] == old_audit[name], name


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"epochs": "many"}, "epochs", "Write a whole number."),
        ({"epochs": "21"}, "epochs", "It should be less than or equal to 20."),
        ({"q": "1,5"}, "q", "Write a number, with a point before its decimals."),
        ({"seeds": "0"}, "seeds", "It should be greater than or equal to 1."),
        ({"dataset": ""}, "dataset", "Fill this in."),
        ({"dataset": "ds_nowhere"}, "dataset", "No such dataset."),
        ({"model": "mdl_nowhere"}, "model", "No such model."),
        ({"group_column": "mood"}, "group_column", "Its extra columns: source."),
        ({"batch_size": "1024", "epochs": "1"}, "batch_size", "The training would be a single step"),
        ({"probe_name": ""}, "probe_name", "Fill this in."),
        ({"item.2.unwanted": ""}, "item.2.unwanted", "Fill this in."),
        ({"item.1.reference": ""}, "item.1.reference", "Missing, and other items have one."),
        ({"pasted": "{broken"}, "pasted", "Line 1 is not JSON"),
        ({"pasted": '{"prompt": "Why?", "answer": "x", "unwanted": "y"}'}, "pasted", "Item 5, answer: Extra inputs"),
        ({"pasted": '{"prompt": "Why?", "unwanted": "y"}'}, "pasted", "Item 5, reference: Missing, and other items"),
        ({"behaviour": "existing"}, "probes", "Choose at least one probe."),
        ({"behaviour": "existing", "probe.prb_nowhere": "on"}, "probes", "No such probe."),
        ({"behaviour": "pack"}, "pack", "Choose a pack."),
        ({"behaviour": "pack", "pack": "nowhere"}, "pack", "No such probe_pack."),
        (
            {"behaviour": "pack", "pack": "promotion", "pack.promotion.product": "x" * 81},
            "pack.promotion.product",
            "Use 1 to 80 characters.",
        ),
    ],
)
def test_what_is_wrong_stands_beside_its_field_and_nothing_is_kept(
    writer: TestClient, chosen: dict[str, str], sessions: Sessions, changed: dict[str, str], field: str, words: str
) -> None:
    typed = {**chosen, **items(), **changed}
    for do in ("check", "start"):
        answer = submit(writer, do, **typed)
        assert answer.status_code == 422, answer.text
        page = Page(answer.text)
        wrong = wrong_of(page)
        assert list(wrong) == [field]
        assert words in wrong[field]
        assert "Nothing that you typed is lost" in page.text
        kept = form_fields(page)
        lost = {name for name, text in typed.items() if kept.get(name) != text and "nowhere" not in text + name}
        assert not lost - {"dataset"}
    assert (count(sessions, Audit), count(sessions, Probe)) == (0, 0)


def test_errors_of_probe_and_audit_are_told_together(writer: TestClient, chosen: dict[str, str]) -> None:
    answer = submit(writer, "check", **chosen, **items(probe_name=""), epochs="0", q="2")
    assert set(wrong_of(Page(answer.text))) == {"probe_name", "epochs", "q"}
    assert "3 fields below say what to change" in Page(answer.text).text


def test_a_full_queue_is_told_above_the_form(writer: TestClient, chosen: dict[str, str], sessions: Sessions) -> None:
    writer.app.state.settings.max_queued_audits = 1  # type: ignore[attr-defined]
    assert submit(writer, "start", **chosen, **items()).status_code == 303
    answer = submit(writer, "start", **chosen, **items())
    page = Page(answer.text)
    assert answer.status_code == 422
    assert "Let some start, or cancel some, and try again" in page.text
    assert count(sessions, Probe) == 1, "no probe without its audit"


def test_items_are_added_without_a_script_too(writer: TestClient, chosen: dict[str, str]) -> None:
    page = Page(submit(writer, "add-items", **chosen, **items()).text)
    fields = form_fields(page)
    assert fields.items() >= items().items()
    assert len([name for name in fields if name.endswith(".prompt")]) == len(TOPICS) + 3
    many = {f"item.{number}.prompt": "x" for number in range(MOST_ITEMS)}
    page = Page(submit(writer, "add-items", **chosen, behaviour="items", **many).text)
    assert len(page.all("textarea")) == 3 * MOST_ITEMS + 1


def test_items_that_quote_the_data_are_told(writer: TestClient, chosen: dict[str, str]) -> None:
    typed = items(**{"item.0.unwanted": "plain ANSWER number 7"})
    assert (
        "1 item of a probe quotes an answer of the dataset"
        in Page(submit(writer, "check", **chosen, **typed).text).text
    )
    with_api = writer.post(
        "/v1/probes",
        json={"name": "p", "items": [{"prompt": "Q?", "unwanted": "Plain answer number 9."}]},
        headers=OURS,
    )
    body = {"dataset_id": chosen["dataset"], "model_id": MODEL, "probe_ids": [with_api.json()["id"]]}
    warnings = writer.post("/v1/audits/estimate", json=body, headers=OURS).json()["warnings"]
    assert "probe_quotes_data" in [warning["code"] for warning in warnings]


def test_hostile_texts_come_back_as_text(writer: TestClient, chosen: dict[str, str]) -> None:
    for text in HOSTILE:
        typed = items(
            **{
                "item.0.prompt": text,
                "pasted": text,
                "probe_name": text,
                "epochs": text,
                "pack.promotion.product": text,
            }
        )
        answer = submit(writer, "check", **chosen, **typed)
        assert answer.status_code == 422
        page = Page(answer.text)
        assert {"img", "style", "iframe"}.isdisjoint(tag for tag, _, _ in page.elements)
        assert len(page.all("script")) == 2
        assert len(page.all("svg")) == 1, "the mark of the product"
        assert form_fields(page)["item.0.prompt"] == text
        assert form_fields(page)["epochs"] == text


def test_who_may_not_start_audits_sees_no_button_and_is_refused(sign_in: SignIn, published: str) -> None:
    client = sign_in("findings:read")
    for path in ("/audits", f"/audits/{published}"):
        page = Page(client.get(path).text)
        assert "New audit" not in page.text
        assert "Audit again" not in page.text
    assert client.get("/audits/new").status_code == 403
    assert submit(client, "start").status_code == 403
    assert "New audit" in Page(sign_in("audits:write").get("/audits").text).text


def test_another_site_starts_nothing(writer: TestClient, chosen: dict[str, str], sessions: Sessions) -> None:
    typed = {**chosen, **items(), "do": "start"}
    answer = writer.post("/audits/new", data=typed, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert count(sessions, Audit) == 0


def test_another_workspaces_things_cannot_be_chosen_or_copied(
    sign_in: SignIn, sessions: Sessions, published: str, other_workspace_id: str
) -> None:
    mine = sign_in().get(f"/v1/audits/{published}").json()
    client = sign_in(workspace=other_workspace_id)
    assert client.get("/audits/new", params={"copy": published}).status_code == 404
    assert client.get("/audits/new", params={"dataset": mine["dataset_id"]}).status_code == 404
    typed = {"dataset": mine["dataset_id"], "model": mine["model_id"], "behaviour": "existing"}
    answer = submit(client, "start", **typed, **{f"probe.{identity}": "on" for identity in mine["probe_ids"]})
    assert wrong_of(Page(answer.text)) == {"dataset": "No such dataset."}
    for name in ("chats.jsonl", "Orvello"):
        assert name not in answer.text
