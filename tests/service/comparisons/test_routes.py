"""Two audits beside each other: what is found agrees with sets and ranks counted in memory."""

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.comparisons.comparing import draw_rows
from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit, publish
from service.lifecycle.jobs import claim
from service.settings import Settings
from service.store.ids import new_id
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.score_lists import add_lists
from service.store.tables import Dataset, Score
from tests.support.builders import add_model, add_probe, summary_of

Sessions = sessionmaker[Session]
ROWS = 200
FLAGGED = 20

Make = Callable[..., "Made"]


class Made:
    """An audit and what it holds: z by row, and its flagged rows by rank."""

    def __init__(self, audit_id: str, dataset_id: str, z: list[float | None], flagged: int) -> None:
        self.id = audit_id
        self.dataset_id = dataset_id
        self.z = z
        self.ranked = ranked(z)
        self.flagged = self.ranked[:flagged]


def ranked(z: list[float | None]) -> list[int]:
    return sorted(range(len(z)), key=lambda row: (z[row] is None, -(z[row] or 0), row))


@pytest.fixture
def make(sessions: Sessions, workspace_id: str, settings: Settings) -> Make:
    """Makes and publishes an audit; `texts` says which text each row of its dataset holds."""

    def go(
        seed: int = 1,
        *,
        dataset_id: str | None = None,
        texts: list[int] | None = None,
        flagged: int = FLAGGED,
        noise: float = 0.5,
        workspace: str = workspace_id,
        **asked: Any,
    ) -> Made:
        numbers = texts or list(range(ROWS))
        draw = random.Random(seed)
        # float4 holds quarters exactly, and there are ties.
        z: list[float | None] = [
            round(4 * (random.Random(number).gauss(0, 1) + noise * draw.gauss(0, 1))) / 4 for number in numbers
        ]
        z[5] = None
        with sessions.begin() as session:
            if dataset_id is None:
                dataset = Dataset(
                    id=new_id("ds"), workspace_id=workspace, name=f"data {seed}", format="messages",
                    encoding="identity", bytes=10, sha256=f"{seed:064}", rows=len(numbers), columns=[], statistics={},
                )  # fmt: skip
                session.add(dataset)
                session.flush()
                dataset_id = dataset.id
                columns = {
                    "row": pa.array(range(len(numbers)), pa.int64()),
                    "sha256": [f"{number:064}" for number in numbers],
                }
                with LocalObjects(settings.objects).create(dataset_key(workspace, dataset_id, "rows.parquet")) as file:
                    pq.write_table(pa.table(columns), file, row_group_size=7)
            options = {"training": TrainingConfig(seed=seed), "seeds": 1, "q": 0.05} | asked
            audit = create_audit(
                session, workspace_id=workspace, dataset_id=dataset_id, probe_ids=[add_probe(session, workspace)],
                model_id=add_model(session, workspace), **options,
            )  # fmt: skip
            held = claim(session, lane="gpu", owner="w")
            assert held is not None
            [headline] = add_lists(session, audit_id=audit.id, attempt=held.attempt, probes=1)
            session.add_all(
                Score(
                    list_id=headline, rank=rank, row=row, n=1, strongest_probe=1,
                    mu=0.0, z=z[row], flagged=rank <= flagged, cluster=row, q=rank / 1000,
                )
                for rank, row in enumerate(ranked(z), start=1)
            )  # fmt: skip
            session.flush()
            assert publish(session, held, summary_of(rows=len(numbers), flagged=flagged))
        return Made(audit.id, dataset_id, z, flagged)

    return go


def compare(client: TestClient, base: Made, other: Made) -> dict[str, Any]:
    response = client.get("/v1/comparisons", params={"base": base.id, "other": other.id})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def changes(client: TestClient, base: Made, other: Made, change: str, limit: int = 3) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    url: str | None = f"/v1/comparisons/changes?base={base.id}&other={other.id}&change={change}&limit={limit}"
    while url:
        response = client.get(url)
        assert response.status_code == 200, response.text
        found += response.json()["data"]
        url = response.links.get("next", {}).get("url")
    return found


def test_two_audits_of_one_dataset(client: TestClient, make: Make) -> None:
    base = make(1)
    other = make(2, dataset_id=base.dataset_id, flagged=30, q=0.1, group_column=None)
    found = compare(client, base, other)
    a, b = set(base.flagged), set(other.flagged)
    assert found["matched_by"] == "row"
    assert 5 < len(a & b) < 20
    assert found["flagged"] == {
        "base": 20, "other": 30, "both": len(a & b), "newly_flagged": len(b - a), "no_longer_flagged": len(a - b),
        "only_in_base": 0, "only_in_other": 0, "jaccard": len(a & b) / len(a | b), "complete": True,
    }  # fmt: skip
    rows = [row for row in range(ROWS) if row != 5]
    exact = spearmanr([base.z[row] for row in rows], [other.z[row] for row in rows]).statistic
    assert found["rank_correlation"] == {
        "value": pytest.approx(exact, abs=1e-12), "low": None, "high": None, "samples": ROWS - 1, "drawn_from": ROWS,
        "sampled": False,
    }  # fmt: skip
    rows = sorted(a | b)
    exact = spearmanr([base.z[row] for row in rows], [other.z[row] for row in rows]).statistic
    assert found["rank_correlation_flagged"]["value"] == pytest.approx(exact, abs=1e-12)
    assert found["rank_correlation_flagged"]["samples"] == len(a | b)
    differences = {one["field"]: (one["base"], one["other"]) for one in found["configuration"]}
    assert set(differences) == {"probe_ids", "model_id", "q", "training.seed"}
    assert (differences["q"], differences["training.seed"]) == ((0.05, 0.1), (1, 2))
    assert found["base_data"] == found["other_data"]

    newly = changes(client, base, other, "newly_flagged")
    assert [one["other_row"] for one in newly] == [row for row in other.flagged if row not in a]
    assert [one["other_rank"] for one in newly] == sorted(one["other_rank"] for one in newly)
    for one in newly:
        assert one["base_row"] == one["other_row"]
        assert (one["base_z"], one["other_z"]) == (base.z[one["base_row"]], other.z[one["other_row"]])
        assert one["base_rank"] == base.ranked.index(one["base_row"]) + 1
    gone = changes(client, base, other, "no_longer_flagged", limit=1)
    assert [one["base_row"] for one in gone] == [row for row in base.flagged if row not in b]


def test_two_datasets_are_matched_by_their_texts(client: TestClient, make: Make) -> None:
    # The other dataset holds the rows backwards, without the first thirty texts, some twice, and new ones.
    texts = [*range(ROWS - 1, 29, -1), *range(150, 160), *range(1000, 1040)]
    base, other = make(1), make(2, texts=texts)
    found = compare(client, base, other)
    assert found["matched_by"] == "sha256"
    a, b = set(base.flagged), {texts[row] for row in other.flagged}
    held = set(range(ROWS)) & set(texts)
    both, newly, gone = a & b, (b - a) & held, (a - b) & held
    assert newly
    assert gone
    assert a - held
    assert b - held
    assert found["flagged"] == {
        "base": len(a), "other": len(b), "both": len(both), "newly_flagged": len(newly),
        "no_longer_flagged": len(gone), "only_in_base": len(a - held), "only_in_other": len(b - held),
        "jaccard": len(both) / len(both | newly | gone), "complete": True,
    }  # fmt: skip
    pairs = [(base.z[text], other.z[texts.index(text)]) for text in held]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    exact = spearmanr(*zip(*known, strict=True)).statistic
    assert found["rank_correlation"]["value"] == pytest.approx(exact, abs=1e-12)
    assert found["rank_correlation"]["samples"] == len(known)
    assert {one["field"] for one in found["configuration"]} >= {"dataset_id"}
    assert (found["base_data"]["rows"], found["other_data"]["rows"]) == (ROWS, len(texts))
    listed = changes(client, base, other, "newly_flagged")
    assert {one["base_row"] for one in listed} == newly
    assert all(texts.index(one["base_row"]) == one["other_row"] for one in listed)
    assert {one["base_row"] for one in changes(client, base, other, "no_longer_flagged")} == gone


def test_nothing_in_common(client: TestClient, make: Make) -> None:
    base, other = make(1), make(2, texts=list(range(5000, 5000 + ROWS)))
    found = compare(client, base, other)
    assert (found["flagged"]["jaccard"], found["flagged"]["only_in_base"]) == (None, FLAGGED)
    assert found["rank_correlation"] | {"drawn_from": 0} == {
        "value": None, "low": None, "high": None, "samples": 0, "drawn_from": 0, "sampled": False,
    }  # fmt: skip
    assert changes(client, base, other, "newly_flagged") == []


def test_an_audit_beside_itself(client: TestClient, make: Make) -> None:
    one = make(1)
    found = compare(client, one, one)
    assert (found["flagged"]["jaccard"], found["configuration"]) == (1.0, [])
    assert found["rank_correlation"]["value"] == pytest.approx(1)


@pytest.mark.parametrize("texts", [None, list(range(ROWS - 1, -1, -1))], ids=["one dataset", "two datasets"])
def test_large_audits_are_sampled_and_say_so(
    client: TestClient, make: Make, monkeypatch: pytest.MonkeyPatch, texts: list[int] | None
) -> None:
    monkeypatch.setattr("service.comparisons.comparing.SAMPLE", 60)
    monkeypatch.setattr("service.comparisons.comparing.MAX_FLAGGED", 10)
    monkeypatch.setattr("service.comparisons.comparing.ROWS_AT_ONCE", 7)
    # Rows are drawn by the audits' ids, which are new in each run; of such intervals one in twenty misses.
    monkeypatch.setattr("service.comparisons.comparing.draw_rows", lambda rows, _: draw_rows(rows, "the same"))
    base = make(1)
    other = make(2, dataset_id=base.dataset_id) if texts is None else make(2, texts=texts)
    found = compare(client, base, other)
    assert (found["flagged"]["base"], found["flagged"]["complete"]) == (10, False)
    correlation = found["rank_correlation"]
    assert (correlation["sampled"], correlation["drawn_from"]) == (True, ROWS)
    assert 58 <= correlation["samples"] <= 60
    where = texts or list(range(ROWS))
    everything = [(base.z[row], other.z[where[row]]) for row in range(ROWS)]
    known = [(x, y) for x, y in everything if x is not None and y is not None]
    exact = spearmanr(*zip(*known, strict=True)).statistic
    assert correlation["low"] < exact < correlation["high"]
    assert correlation["low"] < correlation["value"] < correlation["high"]
    # Asked again, it is the same.
    assert compare(client, base, other) == found


def test_rows_are_drawn_by_chance_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw_rows(50, "a b") == list(range(50))
    monkeypatch.setattr("service.comparisons.comparing.SAMPLE", 1000)
    drawn = draw_rows(100_000, "a b")
    assert drawn == draw_rows(100_000, "a b") != draw_rows(100_000, "b a")
    assert len(set(drawn)) == 1000
    assert 45_000 < sum(drawn) / 1000 < 55_000


def test_whose_audits(
    client: TestClient, make: Make, make_client: Callable[..., TestClient], other_workspace_id: str
) -> None:
    mine, theirs = make(1), make(2, workspace=other_workspace_id)
    stranger = make_client("admin", workspace=other_workspace_id)
    for who, base, other in [(client, mine, theirs), (client, theirs, mine), (stranger, mine, theirs)]:
        for path in ("", "/changes"):
            response = who.get(
                f"/v1/comparisons{path}", params={"base": base.id, "other": other.id, "change": "newly_flagged"}
            )
            assert (response.status_code, response.json()["code"]) == (404, "audit_not_found")
    # Nor by what the process has kept of a comparison.
    compare(client, mine, mine)
    assert stranger.get(f"/v1/comparisons?base={mine.id}&other={mine.id}").status_code == 404
    assert make_client("audits:write").get(f"/v1/comparisons?base={mine.id}&other={mine.id}").status_code == 403


def test_an_audit_that_has_not_finished(client: TestClient, make: Make, make_audit: Callable[[], Any]) -> None:
    finished, waiting = make(1), make_audit()
    response = client.get(f"/v1/comparisons?base={finished.id}&other={waiting.id}")
    assert (response.status_code, response.json()["code"]) == (409, "audit_not_finished")


@pytest.mark.parametrize("query", ["", "base=x", "other=x", "base=%00&other=x"])
def test_what_cannot_be_asked(client: TestClient, query: str) -> None:
    assert client.get(f"/v1/comparisons?{query}").status_code in (400, 422)
