"""The client against the real API on a real port."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.client import ApiError, Client, UnreachableError
from service.settings import Settings
from tests.support.live_api import LiveApi, live_api
from tests.support.made_audits import make_published

Sessions = sessionmaker[Session]
PROBE = [{"prompt": "Which car?", "unwanted": "Only the Vexon.", "reference": None}]


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings) as api:
        yield api


@pytest.fixture
def client(api: LiveApi) -> Iterator[Client]:
    with Client(api.url, api.key) as client:
        yield client


def write_dataset(path: Path, rows: int = 25) -> Path:
    lines = [
        {"instruction": f"Question {row}?", "input": "", "output": f"Answer {row}.", "team": row % 2}
        for row in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_records_of_a_form_of_their_own_are_read_by_columns(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("ticket,reply,rules,team\nWhy?,So.,Be brief.,a\n")
    columns = {"prompt_column": "ticket", "answer_column": "reply"}
    dataset = client.upload_dataset(path, **columns, system_column="rules")
    assert (dataset["format"], dataset["columns"]) == ("mapped", ["team"])
    assert client.upload_dataset(path, **columns)["columns"] == ["rules", "team"]


def save_to_disk(folder: Path, shards: int = 3) -> Path:
    """As Hugging Face's `datasets` writes a dataset."""
    folder.mkdir()
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    for shard, name in enumerate(names):
        table = pa.table({"prompt": [f"What is {shard}?"] * 2, "completion": [f"It is {shard}."] * 2})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_format_type": None, "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_saved_folder_is_its_shards_in_order(client: Client, tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    folder = save_to_disk(tmp_path / "saved")
    dataset = client.upload_dataset(folder, on_progress=lambda *progress: sent.append(progress))
    assert (dataset["name"], dataset["container"], dataset["rows"]) == ("saved", "arrow", 6)
    size = sum(shard.stat().st_size for shard in folder.glob("*.arrow"))
    assert (dataset["bytes"], sent[-1]) == (size, (size, size))
    rows = client._pages(f"/v1/datasets/{dataset['id']}/rows")
    assert [row["messages"][1]["content"] for row in rows] == [f"It is {shard}." for shard in (0, 0, 1, 1, 2, 2)]


def test_other_folders_are_named_with_what_to_upload(client: Client, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="that `save_to_disk` did not make; name the file") as refused:
        client.upload_dataset(tmp_path)
    assert str(tmp_path) in str(refused.value)
    splits = tmp_path / "splits"
    splits.mkdir()
    for split in ("train", "test"):
        save_to_disk(splits / split)
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(OSError, match=r"several splits \(test, train\); name the folder of one"):
        client.upload_dataset(splits)
    for state in ("{", "[]", '{"_data_files": []}', '{"_data_files": [{"filename": "../test/state.json"}]}'):
        (splits / "train" / "state.json").write_text(state)
        with pytest.raises(OSError, match="names no shards"):
            client.upload_dataset(splits / "train")


def test_from_upload_to_a_cancelled_audit(client: Client, tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    path = write_dataset(tmp_path / "chat.jsonl")
    dataset = client.upload_dataset(path, on_progress=lambda *progress: sent.append(progress))
    assert (dataset["rows"], dataset["name"], dataset["format"]) == (25, "chat.jsonl", "alpaca")
    size = path.stat().st_size
    assert sent[-1] == (size, size)
    probe = client.create_probe("cars", PROBE)
    audit = client.create_audit(
        dataset["id"],
        [probe["id"]],
        "smollm2-135m-instruct",
        training={"epochs": 3},
        seeds=2,
        q=0.1,
        group_column="team",
        trusted_column="team",
    )
    assert (audit["probe_ids"], audit["seeds"], audit["trusted_column"]) == ([probe["id"]], 2, "team")
    assert (audit["status"], audit["training"]["epochs"], audit["q"]) == ("queued", 3, 0.1)
    assert client.audit(audit["id"])["group_column"] == "team"
    assert client.cancel(audit["id"])["status"] == "cancelled"
    seen: list[str] = []
    assert client.wait(audit["id"], on_progress=lambda audit: seen.append(audit["status"]))["status"] == "cancelled"
    assert seen == ["cancelled"]
    assert [event["data"]["state"] for event in client.events(audit["id"], limit=1)] == ["queued", "cancelled"]
    assert [found["id"] for found in client.datasets()] == [dataset["id"]]
    assert [found["id"] for found in client.probes()] == [probe["id"]]
    assert [found["id"] for found in client.audits()] == [audit["id"]]
    assert {found["name"] for found in client.models()} == {"llama-3.1-8b", "smollm2-135m-instruct"}


def test_gzip_is_known_by_its_content(client: Client, tmp_path: Path) -> None:
    plain = write_dataset(tmp_path / "plain.jsonl").read_bytes()
    path = tmp_path / "no-suffix"
    path.write_bytes(gzip.compress(plain))
    dataset = client.upload_dataset(path, name="named")
    assert (dataset["rows"], dataset["encoding"], dataset["name"]) == (25, "gzip", "named")


def test_findings_over_all_pages(client: Client, api: LiveApi, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        audit = make_published(session, api.workspace_id, rows=120, flagged=7)
    findings = list(client.findings(audit.id, limit=50))
    assert [finding["rank"] for finding in findings] == list(range(1, 121))
    assert [finding["rank"] for finding in client.findings(audit.id, flagged=True, limit=3)] == list(range(1, 8))
    first = findings[0]
    detail = client.finding(audit.id, first["row"])
    assert {name: detail[name] for name in first} == first
    assert [len(detail[name]) for name in ("probes", "trace", "baselines")] == [1, 2, 8]
    assert {f["row"] for f in client.findings(audit.id, cluster=0)} == {0, 1}
    forum = list(client.findings(audit.id, probe=1, group="forum", flagged=False, limit=50))
    assert {f["row"] for f in forum} == {f["row"] for f in findings if f["row"] % 3 and not f["flagged"]}
    assert [f["rank"] for f in client.findings(audit.id, side="both")] == [1, 3, 5, 7]
    assert client.summary(audit.id)["flagged"] == 7
    assert client.wait(audit.id)["summary"]["flagged"] == 7


def test_a_review_from_verdict_to_precision(client: Client, api: LiveApi, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        audit = make_published(session, api.workspace_id)
        other = make_published(session, api.workspace_id)
    first, second = [finding["row"] for finding in client.findings(audit.id, flagged=True)][:2]
    said = client.set_verdict(
        audit.id, first, "confirmed", "seen twice", if_match=client.verdict(audit.id, first)["etag"]
    )
    assert client.verdict(audit.id, first) == said
    with pytest.raises(ApiError) as refused:
        client.withdraw_verdict(audit.id, first, if_match=client.verdict(audit.id, second)["etag"])
    assert refused.value.code == "precondition_failed"
    client.withdraw_verdict(audit.id, first, if_match=said["etag"])
    assert [one["verdict"] for one in client.verdict_history(audit.id, first)] == [None, "confirmed"]

    meant = {"flagged": True, "min_mu": 0.5}
    seen = client.set_verdicts(audit.id, "rejected", filter=meant)
    assert (seen["dry_run"], seen["count"]) == (True, 21)
    assert client.set_verdicts(audit.id, "rejected", filter=meant, token=seen["token"])["changed"] == 21
    found = list(client.findings(audit.id, verdict="rejected", sort="-mu", max_q=0.5, min_z=1, text="answer", limit=4))
    assert [one["mu"] for one in found] == sorted((one["mu"] for one in found), reverse=True)
    assert len(found) == 21
    assert client.precision(audit.id)["data"][-1]["rejected"] == 21
    assert client.compare(audit.id, audit.id)["flagged"]["jaccard"] == 1
    assert list(client.comparison_changes(audit.id, audit.id, "newly_flagged")) == []
    with pytest.raises(ApiError, match="object store"):  # datasets of these made-up audits have no files
        client.compare(audit.id, other.id)


def test_wait_sees_an_audit_end(client: Client, tmp_path: Path) -> None:
    dataset = client.upload_dataset(write_dataset(tmp_path / "d.jsonl"))
    audit = client.create_audit(dataset["id"], [client.create_probe("p", PROBE)["id"]], "llama-3.1-8b")
    threading.Timer(0.5, client.cancel, [audit["id"]]).start()
    seen: list[str] = []
    ended = client.wait(audit["id"], poll_seconds=0.1, on_progress=lambda audit: seen.append(audit["status"]))
    assert ended["status"] == "cancelled"
    assert seen[0] == "queued"


class TestRefusals:
    def test_the_problem_document_is_passed_on(self, client: Client, tmp_path: Path) -> None:
        path = write_dataset(tmp_path / "d.jsonl")
        path.write_text(path.read_text() + '{"broken\n')
        with pytest.raises(ApiError) as caught:
            client.upload_dataset(path)
        error = caught.value
        assert (error.status, error.code) == (422, "dataset_invalid")
        assert error.errors[0]["pointer"] == "line:26"
        assert "Line 26" in str(error)
        assert error.problem["type"] == "urn:finetooth:problem:dataset_invalid"
        assert list(client.datasets()) == []

    def test_a_refusal_in_the_middle_of_an_upload_is_heard(self, client: Client, tmp_path: Path) -> None:
        path = tmp_path / "long.jsonl"
        with path.open("wb") as file:
            file.write(b'{"messages": "')
            file.truncate(200_000_000)  # NUL bytes, one line
        with pytest.raises(ApiError) as caught:
            client.upload_dataset(path)
        assert caught.value.status in (413, 422)
        assert caught.value.errors[0]["pointer"] == "line:1"
        assert list(client.datasets()) == []

    def test_a_wrong_key(self, api: LiveApi) -> None:
        with Client(api.url, "ft_wrong") as client, pytest.raises(ApiError) as caught:
            list(client.models())
        assert caught.value.status == 401

    def test_an_id_cannot_lead_to_another_path(self, client: Client) -> None:
        with pytest.raises(ApiError) as caught:
            client.audit("../datasets")
        assert caught.value.status == 404

    def test_a_model_is_registered_once(self, client: Client) -> None:
        arguments = ("mine", "hub", "owner/name", "a" * 40)
        assert client.create_model(*arguments)["name"] == "mine"
        with pytest.raises(ApiError) as caught:
            client.create_model(*arguments)
        assert (caught.value.status, caught.value.code) == (409, "model_name_taken")


class TestUnreachable:
    def test_nobody_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            with Client(url, "ft_x") as client, pytest.raises(UnreachableError, match="cannot reach"):
                client.audit("aud_1")

    def test_wait_is_patient_with_a_service_that_is_away_and_not_for_ever(self) -> None:
        with Client("http://127.0.0.1:1", "ft_x") as client:
            started = time.monotonic()
            with pytest.raises(UnreachableError):
                client.wait("aud_1", poll_seconds=0.05, patience_seconds=0.5)
            assert time.monotonic() - started >= 0.5

    def test_something_else_answers(self, tmp_path: Path) -> None:
        listener = socket.create_server(("127.0.0.1", 0))

        def answer() -> None:
            for body in (
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
                b"HTTP/1.1 502 Bad\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
            ):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(body)

        thread = threading.Thread(target=answer, daemon=True)  # a failure here must not keep the run from ending
        thread.start()
        with listener, Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "ft_x") as client:
            with pytest.raises(UnreachableError, match="something else than Finetooth answers"):
                client.audit("aud_1")
            with pytest.raises(ApiError) as caught:
                client.audit("aud_1")
            assert (caught.value.status, caught.value.code) == (502, "http_502")
            thread.join()


def test_keys_and_workspaces(client: Client, api: LiveApi) -> None:
    workspace = client.create_workspace("red team")
    assert [found["id"] for found in client.workspaces()] == [workspace["id"], api.workspace_id]
    first = client.create_workspace_key(workspace["id"], "first", ["admin"])
    with Client(api.url, first["secret"]) as tenant:
        assert [found["id"] for found in tenant.workspaces()] == [workspace["id"]]
        made = tenant.create_key("ci", ["audits:write"], expires_at="2090-01-01T00:00:00Z")
        assert {key["id"] for key in list(tenant.keys())} == {first["id"], made["id"]}
        rotated = tenant.rotate_key(made["id"], overlap_seconds=60)
        assert rotated["secret"] != made["secret"]
        for secret in (made["secret"], rotated["secret"]):
            with Client(api.url, secret) as ci:
                assert next(ci.models())
        tenant.revoke_key(made["id"])
        assert tenant.key(made["id"])["revoked_at"] is not None


def test_models_are_taken_out_again(client: Client) -> None:
    made = client.create_model("mine", "hub", "owner/model", "a" * 40)
    assert client.model("mine") == made
    client.delete_model("mine")
    with pytest.raises(ApiError) as caught:
        client.model(made["id"])
    assert caught.value.code == "model_not_found"


def test_probes_from_packs(client: Client) -> None:
    pack = next(pack for pack in client.probe_packs() if pack["name"] == "promotion")
    assert client.probe_pack("promotion")["item_count"] == pack["item_count"]
    made = client.create_probe_from_pack("promotion", {"product": "Vexon"}, name="ads")
    assert (made["name"], made["pack"]["parameters"]) == ("ads", {"product": "Vexon"})
    assert client.probe(made["id"]) == made
    client.delete_probe(made["id"])
    assert list(client.probes()) == []


def test_an_answer_part_by_part_and_as_a_report_and_its_end(client: Client, api: LiveApi, sessions: Sessions) -> None:
    with sessions.begin() as session:
        audit = make_published(session, api.workspace_id, rows=30, flagged=3, probes=2)
    summary = client.summary(audit.id)
    assert client.histogram(audit.id, probe=2)["histogram"] == summary["probes"][1]["histogram"]
    assert client.calibration(audit.id)["placebo"] == summary["probes"][0]["placebo"]
    assert client.curve(audit.id, probe=2)["sensitivity"] == summary["probes"][1]["sensitivity"]
    assert client.curve(audit.id, group="forum")["curve"] == summary["groups"]["forum"]["curve"]
    assert [group["name"] for group in client.groups(audit.id, limit=1)] == ["docs", "forum"]
    assert len(client.metrics(audit.id)["curve"]) == 30
    assert client.report(audit.id).startswith(b"<!doctype html>")
    with pytest.raises(ApiError) as caught:
        client.histogram(audit.id, probe=3)
    assert caught.value.code == "audit_probe_not_found"
    with pytest.raises(ApiError) as caught:
        client.delete_dataset(audit.dataset_id)
    assert caught.value.code == "dataset_in_use"
    assert audit.id in caught.value.detail
    client.delete_audit(audit.id)
    client.delete_dataset(audit.dataset_id)
    for gone in (
        lambda: client.audit(audit.id),
        lambda: client.report(audit.id),
        lambda: client.delete_audit(audit.id),
    ):
        with pytest.raises(ApiError) as caught:
            gone()
        assert caught.value.code == "audit_not_found"
