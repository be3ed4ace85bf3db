"""Pages of audits say what the API says, in every state, and their buttons do what they say."""

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent, Stage
from service.contract.results import BaselineComparison, Drift
from service.lifecycle.audits import record_progress, request_cancel, start_step
from service.lifecycle.jobs import fail
from tests.support.made_audits import make_published, make_queued, record_metric, take, train
from tests.support.pages import OURS, Page, Sessions, SignIn
from tests.support.summaries import make_probe_summary


def test_the_list_shows_every_audit_newest_first(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        first = make_published(session, workspace_id, dataset_name="first.jsonl").id
    with sessions.begin() as session:
        second = make_queued(session, workspace_id, dataset_name="second.jsonl").id
    page = Page(sign_in().get("/audits").text)
    rows = [(attrs["data-audit"], " ".join(text.split())) for attrs, text in page.all("tr") if "data-audit" in attrs]
    assert [row[0] for row in rows] == [second, first]
    assert "queued" in rows[0][1]
    assert "second.jsonl" in rows[0][1]
    assert "21 of 120" in rows[1][1]


def test_older_audits_are_a_page_away(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    ids = []
    for number in range(3):
        with sessions.begin() as session:
            ids.append(make_queued(session, workspace_id, dataset_name=f"set-{number}.jsonl").id)
    client = sign_in()
    page = Page(client.get("/audits?limit=2").text)
    assert [attrs["data-audit"] for attrs, _ in page.all("tr") if "data-audit" in attrs] == ids[:0:-1]
    older = page.all("a", rel="next")[0][0]["href"]
    page = Page(client.get(str(older)).text)
    assert [attrs["data-audit"] for attrs, _ in page.all("tr") if "data-audit" in attrs] == ids[:1]


def test_the_audits_numbers_are_those_of_the_api(sign_in: SignIn, published: str) -> None:
    client = sign_in()
    summary = client.get(f"/v1/audits/{published}").json()["summary"]
    page = Page(client.get(f"/audits/{published}").text)
    assert (
        "Finetooth flags 21 of 120 samples; at q = 0.05 about 1 of them is expected to be a false alarm." in page.text
    )
    assert summary["flagged"] == 21
    shown = {attrs["value"] for attrs, _ in page.all("data")}
    (probe,) = summary["probes"]
    for name in ("rows", "rows_scored", "rows_truncated", "clusters", "flagged", "steps", "tokens", "refreshes",
                 "train_loss_first", "train_loss_last"):  # fmt: skip
        assert str(summary[name]) in shown, name
    for name in ("threshold_z", "items", "loss_first", "loss_last"):
        assert str(probe[name]) in shown, name
    assert {str(weight) for weight in probe["views"].values()} <= shown
    assert "36 % gradients, 64 % representations" in page.text
    for value in probe["null"].values():
        assert value == "student_t" or str(value) in shown
    for comparison in summary["baselines"]:
        assert {str(comparison[name]) for name in ("spearman", "top_overlap", "auc")} <= shown
    for group in summary["groups"].values():
        assert {str(group[name]) for name in ("rows", "flagged", "mu")} <= shown
    assert summary["warnings"][0]["message"] in page.text


def test_how_far_to_trust_a_result_is_told(sign_in: SignIn, published: str) -> None:
    page = Page(sign_in().get(f"/audits/{published}").text)
    for sentence in (
        "With 20 placebo directions (which mean nothing), 31 of 3,000 results had p ≤ 0.01, where 20 to 41 are "
        "expected: as it should be.",
        "Of 5 tracers (answers of the probe hidden among the samples) the audit would have found 81 % (62 to 93 %), "
        "and 44 % of tracers "
        "at 75 % of their strength.",
        "moved 0.52 times as far as the recorded effects predict",
        "within gamma = 0.08 of a Gaussian curve",
    ):
        assert sentence in page.text
    assert "finds these too" not in page.text
    assert "Do the seeds agree?" not in page.text


def test_a_simpler_method_that_finds_the_same_is_named(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    found = BaselineComparison(name="repeated_output", spearman=0.9, top_overlap=0.95, auc=0.99)
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, baselines=(found,))
    page = Page(sign_in().get(f"/audits/{audit.id}").text)
    assert "Repeated outputs counting repeated outputs finds these too" in page.text


def test_what_could_not_be_measured_is_said_and_not_drawn(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    bare = make_probe_summary(
        sensitivity=None, placebo=None, flagged=0, threshold_z=None,
        drift=Drift(step=(), predicted=(), realised=(), slope=None, correlation=None),
    )  # fmt: skip
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, flagged=0, gaussianity=None, baselines=(), groups={})
        audit.summary = {**audit.summary, "probes": [bare.model_dump(mode="json")]}
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "What this audit could have found is not known" in page.text
    assert "Not checked against placebo directions" in page.text
    assert "too seldom" in page.text
    sources = [attrs["src"] or "" for attrs, _ in page.all("img")]
    assert not [source for source in sources if "sensitivity" in source or "drift" in source]
    assert client.get(f"/audits/{audit.id}/sensitivity.svg").status_code == 404
    assert client.get(f"/audits/{audit.id}/group.svg?group=forum").status_code == 404


def test_several_probes_and_seeds_are_told_one_by_one(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, probes=2, seeds=3).id
    client = sign_in()
    answer = client.get(f"/audits/{audit}")
    page = Page(answer.text)
    assert "<b>Vexon</b>" not in answer.text
    summaries = [" ".join(text.split()) for _, text in page.all("summary")]
    assert summaries[0].startswith("opinion about Orvello On its own this probe flags 21 of 120 samples")
    assert summaries[1].startswith("praise of <b>Vexon</b> On its own")
    assert "The rankings of 3 runs with different seeds have a mean rank correlation of 0.84" in page.text
    for name in ("histogram", "calibration", "sensitivity", "drift"):
        assert client.get(f"/audits/{audit}/{name}.svg?probe=2").status_code == 200
        assert client.get(f"/audits/{audit}/{name}.svg?probe=3").status_code == 404
    for seed in (7, 8, 9):
        assert client.get(f"/audits/{audit}/loss.svg?until=30&seed={seed}").status_code == 200
    assert f"/audits/{audit}/loss.svg?scheme=light&seed=7&until=30" in [a["src"] for a, _ in page.all("img")]
    listed = Page(client.get(f"/audits/{audit}/findings?probe=2&flagged=true").text)
    rows = [attrs["data-row"] for attrs, _ in listed.all("tr") if "data-row" in attrs]
    expected = client.get(f"/v1/audits/{audit}/findings?probe=2&flagged=true").json()["data"]
    assert rows == [str(finding["row"]) for finding in expected]
    one = Page(client.get(f"/audits/{audit}/findings/{rows[0]}").text)
    assert "What each probe alone says of it" in one.text
    assert "each of its 6 observations" in (one.all("img")[0][0]["alt"] or "")
    assert "and 1 more" in Page(client.get("/audits").text).text


def test_a_running_audit_shows_stage_numbers_and_time_left(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "Waiting for a free worker" in page.text
    with sessions.begin() as session:
        taken = take(session, audit)
        assert start_step(session, taken, "train:7", "a" * 64)
        record_progress(
            session, taken, ProgressEvent(stage=Stage.TRAINING, done=9, total=30, unit="steps", eta_seconds=125)
        )
        for step in range(1, 10):
            record_metric(session, taken, step)
    answer = client.get(f"/audits/{audit.id}")
    page = Page(answer.text)
    assert page.all("li", aria_current="step")[0][1] == "Training and measuring"
    bar = page.all("progress")[0][0]
    assert (bar["value"], bar["max"]) == ("9", "30")
    assert "9 of 30 steps" in page.text
    assert "30 %" in page.text
    assert "about 2 min left" in page.text
    assert page.all("div", id="audit")[0][0]["data-live"] == f"/audits/{audit.id}"
    assert ("http-equiv", "refresh") in [item for _, attrs, _ in page.elements for item in attrs.items()], "no script"
    assert client.get(f"/audits/{audit.id}/loss.svg?until=9&seed=7").status_code == 200
    assert client.get(f"/audits/{audit.id}/histogram.svg").status_code == 404
    assert "There are no findings yet" in client.get(f"/audits/{audit.id}/findings").text


def test_a_running_audit_of_several_seeds_tells_which(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id, seeds=2)
        taken = take(session, audit)
        train(session, taken, 7)
        assert start_step(session, taken, "train:8", "a" * 64)
        record_progress(session, taken, ProgressEvent(stage=Stage.TRAINING, done=4, total=30, unit="steps"))
        for step in range(1, 5):
            record_metric(session, taken, step, 8)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "seed 2 of 2" in page.text
    assert page.all("figure", id="loss")[0][1].strip().startswith("The run with seed 8.")
    assert "Training and measuring, seed 2 of 2 · 13 %" in Page(client.get("/audits").text).text
    with sessions.begin() as session:
        assert start_step(session, taken, "combine", "a" * 64)
        record_progress(session, taken, ProgressEvent(stage=Stage.LOADING, done=0))
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert page.all("li", aria_current="step")[0][1] == "Scoring"
    assert "all 2 seeds together" in page.text


def test_a_failed_audit_says_why_and_what_to_do(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    failure = Failure(
        code=ErrorCode.OUT_OF_MEMORY, message="Out of memory at step 3.", hint="Set micro_batch_size to 2."
    )
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        assert fail(session, take(session, audit), failure)
    page = Page(sign_in().get(f"/audits/{audit.id}").text)
    for part in ("The audit failed", failure.message, failure.hint, "out_of_memory"):
        assert part in page.text
    assert "data-live" not in page.all("div", id="audit")[0][0]


def test_a_cancelled_audit_says_so_plainly(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = make_queued(session, workspace_id)
        request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
    page = Page(sign_in().get(f"/audits/{audit.id}").text)
    assert "This audit was cancelled" in page.text
    assert "Nothing from it was published" in page.text


def test_an_audit_without_flags_says_so_and_promises_nothing(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, flagged=0)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert "Finetooth flags none of 120 samples" in page.text
    assert "does not prove that the data is clean" in page.text
    assert "No sample is flagged" in client.get(f"/audits/{audit.id}/findings?flagged=true").text


def test_buttons_cancel_an_audit_and_try_it_again(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = make_queued(session, workspace_id).id
    client = sign_in()
    address = f"/audits/{audit_id}"

    def buttons() -> list[str | None]:
        forms = Page(client.get(address).text).all("form", method="post")
        return [attributes["action"] for attributes, _ in forms if attributes["action"] != "/sign-out"]

    assert buttons() == [f"{address}/cancel"]
    for act, status, after in (("cancel", "cancelled", ["retry", "delete"]), ("retry", "queued", ["cancel"])):
        answer = client.post(f"{address}/{act}", headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, address)
        assert client.get(f"/v1{address}").json()["status"] == status
        assert buttons() == [f"{address}/{other}" for other in after]


def test_another_site_cannot_press_them(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = make_queued(session, workspace_id).id
    client = sign_in()
    assert client.post(f"/audits/{audit_id}/cancel", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get(f"/v1/audits/{audit_id}").json()["status"] == "queued"


def test_who_may_only_read_sees_no_buttons(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit_id = make_queued(session, workspace_id).id
    client = sign_in("findings:read")
    assert f"/audits/{audit_id}/cancel" not in client.get(f"/audits/{audit_id}").text
    assert client.post(f"/audits/{audit_id}/cancel", headers=OURS).status_code == 403


def test_a_finished_audit_links_its_report_and_can_be_deleted(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, rows=25, flagged=3)
    client = sign_in()
    page = Page(client.get(f"/audits/{audit.id}").text)
    assert page.all("a", href=f"/v1/audits/{audit.id}/report")
    assert client.get(f"/v1/audits/{audit.id}/report").text.startswith("<!doctype html>")
    assert page.all("form", action=f"/audits/{audit.id}/delete", method="post")
    export = client.post(f"/v1/audits/{audit.id}/exports", json={"kind": "scores"}, headers=OURS).json()
    refused = client.post(f"/audits/{audit.id}/delete", headers=OURS)
    assert refused.status_code == 409
    assert export["id"] in Page(refused.text).text
    foreign = client.post(f"/audits/{audit.id}/delete", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    client.post(f"/v1/exports/{export['id']}/cancel", headers=OURS)
    gone = client.post(f"/audits/{audit.id}/delete", headers=OURS)
    assert (gone.status_code, gone.headers["Location"]) == (303, "/audits")
    assert client.get(f"/audits/{audit.id}").status_code == 404
    assert "chats.jsonl" not in Page(client.get("/audits").text).text


def test_who_may_not_delete_or_read_findings_is_offered_neither(
    sign_in: SignIn, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        done = make_published(session, workspace_id, rows=25, flagged=3)
    page = Page(sign_in("datasets:write").get(f"/audits/{done.id}").text)
    assert not page.all("form", action=f"/audits/{done.id}/delete")
    assert not page.all("a", href=f"/v1/audits/{done.id}/report")
    with sessions.begin() as session:
        waits = make_queued(session, workspace_id)
    page = Page(sign_in().get(f"/audits/{waits.id}").text)
    assert not page.all("form", action=f"/audits/{waits.id}/delete")
    assert not page.all("a", href=f"/v1/audits/{waits.id}/report")


def test_the_list_shows_audits_of_one_state(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        done = make_published(session, workspace_id).id
        waiting = make_queued(session, workspace_id).id
    client = sign_in()

    def listed(query: str) -> list[str | None]:
        page = Page(client.get(f"/audits{query}").text)
        return [attrs["data-audit"] for attrs, _ in page.all("tr") if "data-audit" in attrs]

    assert listed("") == [waiting, done]
    assert listed("?status=queued") == [waiting]
    assert listed("?status=succeeded") == [done]
    page = Page(client.get("/audits?status=failed").text)
    assert "No audit is failed now" in page.text
    assert "No audit yet" not in page.text
    assert client.get("/audits?status=lost").status_code == 404
    assert listed("?limit=1") == [waiting]
    with sessions.begin() as session:
        make_queued(session, workspace_id)
    older = Page(client.get("/audits?status=queued&limit=1").text).all("a", rel="next")[0][0]["href"]
    assert "status=queued" in str(older)
    assert listed(str(older).removeprefix("/audits")) == [waiting]


def test_all_that_wait_are_cancelled_by_one_button(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        ids = [make_queued(session, workspace_id).id for _ in range(2)]
    client = sign_in()
    assert "Cancel all" not in client.get("/audits").text, "only where just those are shown"
    shown = client.get("/audits?status=queued&mine=true").text
    assert "all of mine" not in shown, "none of them is"
    assert "Cancel all that wait" in client.get("/audits?status=queued").text
    assert "Cancel all" not in sign_in("findings:read").get("/audits?status=queued").text
    client = sign_in()
    assert client.post("/audits/cancel", data={"mine": "true"}, headers=OURS).status_code == 303
    assert {client.get(f"/v1/audits/{audit_id}").json()["status"] for audit_id in ids} == {"queued"}
    answer = client.post("/audits/cancel", data={"mine": ""}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/audits?status=queued")
    assert {client.get(f"/v1/audits/{audit_id}").json()["status"] for audit_id in ids} == {"cancelled"}


def test_a_waiting_audit_says_what_it_waits_for(sign_in: SignIn, sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        make_queued(session, workspace_id)
        second = make_queued(session, workspace_id).id
    client = sign_in()
    page = Page(client.get(f"/audits/{second}").text)
    told = {attrs["id"]: text for attrs, text in page.all("span") + page.all("dd") if "queue-" in str(attrs.get("id"))}
    assert told == {
        "queue-reason": "No worker that takes audits is alive. It starts when one does. See Workers and queue.",
        "queue-place": "1",
        "queue-start": "–",
    }
    rows = [
        " ".join(text.split()) for attrs, text in Page(client.get("/audits").text).all("tr") if "data-audit" in attrs
    ]
    assert ["1 job before it" in row for row in rows] == [True, False]
