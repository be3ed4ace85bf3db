"""From recordings to scores and summary, on synthetic signals whose truth is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.notices import REPEATED
from service.contract.results import ScoreRow, Summary, ViewWeights
from service.contract.spec import ModelSource, ModelSpec, Probe, ProbeItem, StepSpec, TrainingConfig
from tests.support.recordings import FAIR, PLANTED, ROWS, recording
from worker.child.train import directions_of
from worker.influence.directions import Kind
from worker.results.baselines import baselines_of, tracin_of_seed
from worker.results.files import group_of, score_table, trace_table
from worker.results.recording import Recording, RunFacts
from worker.results.scoring import Question, Scores, score
from worker.results.summary import summarise
from worker.results.views import SampleViews
from worker.training.encoding import EncodingFacts, NotedRows


def question(rows: int = ROWS, **changes: Any) -> Question:
    return replace(Question(rows, 0.05, np.arange(rows), np.arange(rows), None), **changes)


def flagged(scores: Scores) -> set[int]:
    return set(np.flatnonzero(scores.flagged).tolist())


def score_rows(scores: Scores) -> list[ScoreRow]:
    said = SampleViews(ViewWeights(gradient=0.6, representation=0.8), np.arange(float(ROWS)), np.full(ROWS, np.nan))
    left_out = np.where(np.arange(ROWS) == 3, np.nan, np.arange(ROWS) % 2)
    table = score_table(scores, [said] * len(scores.probes), np.arange(ROWS), [None] * ROWS, left_out)
    return [ScoreRow(**row) for row in table.to_pylist()]


def summary_of(
    recordings: list[Recording],
    asked: Question,
    groups: list[str | None] | None = None,
    noticed: dict[str, int] | None = None,
) -> Summary:
    reference = recordings[0].column(0, Kind.REFERENCE) is not None
    words = ("amber", "birch", "cedar", "dahlia", "elder", "fern")
    items = tuple(ProbeItem(prompt=w, unwanted=f"{w}!", reference=f"no {w}" if reference else None) for w in words)
    spec = StepSpec(
        audit_id="aud_test",
        attempt=1,
        step_key="combine",
        model=ModelSpec(source=ModelSource.LOCAL, location="/nowhere"),
        training=TrainingConfig(),
        seeds=tuple(range(len(recordings))),
        probes=tuple(Probe(name=f"p{n}", items=items) for n in range(len(recordings[0].held_out))),
        q=asked.q,
        noticed=noticed or {},
    )
    messages = [
        [{"role": "user", "content": f"q{row}"}, {"role": "assistant", "content": f"answer {row}"}]
        for row in range(asked.rows)
    ]
    baselines = baselines_of(recordings, messages, [item.unwanted for item in items])
    views = [ViewWeights(gradient=0.6, representation=0.8)] * len(recordings[0].held_out)
    return summarise(spec, recordings, views, asked, score(recordings, asked), baselines, groups or [None] * asked.rows)


def test_notices_of_what_no_audit_does_as_the_rows_say_are_warnings() -> None:
    noticed = {kind: 7 + number for number, kind in enumerate(REPEATED)}
    warnings = {
        caution.code: caution.message for caution in summary_of([recording()], question(), None, noticed).warnings
    }
    assert [int(warnings[kind].split()[0]) for kind in REPEATED] == [7, 8, 9]
    assert not set(REPEATED) & {caution.code for caution in summary_of([recording()], question()).warnings}


def test_planted_rows_are_flagged_and_rank_first() -> None:
    scores = score([recording(reference=False)], question())
    found = flagged(scores)
    assert set(range(PLANTED)) <= found
    # 24 flags at q = 0.05: five false ones would be a chance of less than 1 %.
    assert len(found - set(range(PLANTED + FAIR))) <= 4
    rows = score_rows(scores)
    assert [row.rank for row in rows] == list(range(1, ROWS + 1))
    assert {row.row for row in rows if row.flagged} == found
    assert all(row.mu > 0 and (row.mu_low or 0) < row.mu < (row.mu_high or 0) for row in rows[:PLANTED])
    assert [row.q for row in rows] == sorted(row.q or 0 for row in rows)
    assert max(row.p or 0 for row in rows[:PLANTED]) < 1e-3
    assert all(row.tokens_left_out == (None if row.row == 3 else row.row % 2) for row in rows)
    assert all(row.z_gradient == row.row and row.z_representation is None for row in rows)
    assert all(row.probability_unwanted is not None and row.probability_fair is None for row in rows)


def test_a_reference_keeps_fair_answers_from_being_flagged() -> None:
    scores = score([recording()], question())
    own = scores.probes[0]
    fair = range(PLANTED, PLANTED + FAIR)
    assert set(range(PLANTED)) <= flagged(scores)
    assert not flagged(scores) & set(fair)
    assert sum(bool(own.detection.flagged[row]) for row in fair) >= 8, "they are unlike the bulk all the same"
    assert {own.side[row] for row in fair} == {"against"}
    assert {own.side[row] for row in range(PLANTED)} == {"toward"}
    assert own.kinds.of_rows.fair[list(fair)].min() > 0.9
    assert (own.kinds.of_rows.unwanted.sum(), own.kinds.of_rows.fair.sum()) == pytest.approx((PLANTED, FAIR), abs=1.5)


def test_several_probes_share_one_headline() -> None:
    scores = score([recording(probes=2, reference=False)], question())
    assert set(range(PLANTED)) | set(range(40, 50)) <= flagged(scores)
    assert {int(scores.headline.probe[row]) for row in range(PLANTED)} == {0}
    assert {int(scores.headline.probe[row]) for row in range(40, 50)} == {1}
    rows = score_rows(scores)
    assert [sum(row.probe_no == number for row in rows) for number in (0, 1, 2)] == [ROWS] * 3
    # A probe's own list has fewer sure findings than the headline, so its last ones weigh more.
    assert len({row.row for row in rows if row.probe_no == 2 and row.flagged} & set(range(40, 50))) >= 9


def test_seeds_find_together_what_one_of_them_misses() -> None:
    weak = [recording(seed, planted=2.2, shared=0.3, reference=False) for seed in range(4)]
    planted = set(range(PLANTED))
    alone = [len(flagged(score([one], question())) & planted) for one in weak]
    assert len(flagged(score(weak, question())) & planted) > max(alone)
    summary = summary_of(weak, question())
    assert summary.consistency is not None
    assert summary.consistency.seeds == 4
    assert 0.1 < summary.consistency.spearman_z < 0.6
    assert summary_of(weak[:1], question()).consistency is None


def test_trusted_rows_are_not_tested() -> None:
    trusted = np.zeros(ROWS, dtype=bool)
    trusted[100:200] = True
    scores = score([recording(reference=False)], question(trusted=trusted))
    assert np.isnan(scores.headline.p[trusted]).all()
    assert np.isfinite(scores.headline.p[~trusted]).all()
    assert set(range(PLANTED)) <= flagged(scores)


def test_copies_share_one_p() -> None:
    cluster = np.arange(ROWS)
    cluster[60:80] = 60
    scores = score([recording(reference=False)], question(cluster=cluster))
    assert len(set(scores.headline.p[60:80])) == 1
    assert len(set(scores.headline.q[60:80])) == 1


def test_groups_have_influence_and_curve() -> None:
    groups = ["bad" if row < PLANTED else "good" if row < 200 else None for row in range(ROWS)]
    summary = summary_of([recording(reference=False)], question(), groups)
    scores = score([recording(reference=False)], question())
    bad, good = summary.groups["bad"], summary.groups["good"]
    assert (bad.rows, good.rows) == (PLANTED, 200 - PLANTED)
    assert bad.mu == pytest.approx(ROWS / (ROWS - PLANTED) * scores.probes[0].mu[:PLANTED].sum())
    assert bad.mu_low is not None
    assert bad.mu_low < (bad.mu or 0)
    assert bad.curve is not None
    assert (bad.curve.mu_lower_bound or 0) > 0.5
    assert bad.flagged == PLANTED


def test_of_a_column_of_ids_the_largest_groups_are_described() -> None:
    groups: list[str | None] = [f"id{row:03}" for row in range(ROWS)]
    groups[:PLANTED] = ["zebra"] * PLANTED
    summary = summary_of([recording(reference=False)], question(), groups)
    assert list(summary.groups) == [f"id{row:03}" for row in range(PLANTED, PLANTED + 99)] + ["zebra"]
    (told,) = [caution for caution in summary.warnings if caution.code == "many_groups"]
    assert f"There are {ROWS - PLANTED + 1} groups" in told.message
    few = summary_of([recording(reference=False)], question(), [str(row % 100) for row in range(ROWS)])
    assert len(few.groups) == 100
    assert "many_groups" not in [caution.code for caution in few.warnings]


def test_near_copies_that_hide_a_sample_are_told_and_hide_nothing() -> None:
    """Each planted sample among three clean ones that nearly say the same: found, with a warning that names them."""
    cluster = np.arange(ROWS)
    decoys = np.arange(ROWS - 3 * PLANTED, ROWS)
    cluster[decoys] = decoys % PLANTED
    asked = question(cluster=cluster)
    one = recording(planted=7.0)
    found = score([one], asked)
    assert found.flagged[:PLANTED].sum() >= PLANTED - 2
    assert found.flagged[PLANTED:].sum() <= 1
    (told,) = [w.message for w in summary_of([one], asked).warnings if w.code == "near_duplicates_divided"]
    assert told.startswith(f"{found.flagged[:PLANTED].sum()} samples (the first are rows 0, ")
    assert "near_duplicates_divided" not in [w.code for w in summary_of([one], question()).warnings]


def test_a_trusted_sample_that_looks_unwanted_is_told() -> None:
    trusted = np.zeros(ROWS, dtype=bool)
    trusted[[0, PLANTED + FAIR + 3]] = True
    one = recording(planted=7.0)
    warnings = {w.code: w.message for w in summary_of([one], question(trusted=trusted)).warnings}
    assert warnings["trusted_samples_doubted"].startswith("1 sample (row 0) is marked as known to be clean")
    assert "trusted_samples_doubted" not in [w.code for w in summary_of([one], question()).warnings]


def test_rows_never_drawn_come_last_with_a_caution() -> None:
    drawn = recording(unseen=3, reference=False)
    rows = score_rows(score([drawn], question()))
    assert [row.row for row in rows[-3:]] == [257, 258, 259]
    assert all(
        (row.n, row.mu, row.z, row.p, row.q, row.flagged) == (0, 0.0, None, None, None, False) for row in rows[-3:]
    )
    summary = summary_of([drawn], question())
    assert summary.rows_scored == ROWS - 3
    assert "unscored_samples" in [caution.code for caution in summary.warnings]


def test_what_was_noted_of_samples_is_cautioned_with_their_rows() -> None:
    drawn = recording(unseen=3, reference=False)
    encoding = EncodingFacts(
        left_out=NotedRows(count=2, first=(258, 259)),
        reason="the model's chat template refuses the conversation (TypeError)",
        control_tokens=NotedRows(count=1, first=(4,)),
        answers_cut=NotedRows(count=30, first=(7, 8)),
        answer_tokens_cut=411,
    )
    noted = replace(drawn, facts=drawn.facts.model_copy(update={"encoding": encoding}))
    told = {caution.code: caution.message for caution in summary_of([noted], question()).warnings}
    assert "2 samples (rows 258, 259)" in told["samples_left_out"]
    assert "refuses the conversation (TypeError)" in told["samples_left_out"]
    assert told["unscored_samples"].startswith("1 sample has no answer")
    assert "1 sample (row 4)" in told["control_tokens"]
    assert "411 answer tokens of 30 samples (the first are rows 7, 8)" in told["answers_cut"]
    assert "limit of 512 tokens" in told["answers_cut"]


def test_small_and_heavily_flagged_datasets_are_cautioned() -> None:
    codes = [
        caution.code for caution in summary_of([recording(rows=100, reference=False)], question(100, q=0.2)).warnings
    ]
    assert "few_samples" in codes
    assert "many_flagged" in codes


def test_the_summary_tells_of_placebos_tracers_and_drift() -> None:
    summary = summary_of([recording()], question())
    probe = summary.probes[0]
    assert probe.placebo is not None
    assert probe.placebo.directions == 20
    assert probe.placebo.flagged_per_direction < 2
    assert probe.sensitivity is not None
    assert (probe.sensitivity.tracers, probe.sensitivity.clusters) == (6, 3)
    assert probe.sensitivity.points[-1].flagged > 0.9, "an alignment of 0.25 is five spreads out"
    assert probe.kinds is not None
    assert probe.kinds.fair is not None
    assert (probe.kinds.unwanted, probe.kinds.fair) == pytest.approx((PLANTED, FAIR), abs=1.5)
    assert probe.kinds.flagged_unwanted == pytest.approx(probe.flagged, abs=0.05 * probe.flagged)
    assert len(probe.drift.step) == len(probe.drift.realised) == 5
    assert (probe.loss_first, probe.loss_last) == (4, 3)
    assert probe.null.degrees_of_freedom <= 13
    assert [count.p for count in probe.calibration.tails] == [0.05, 0.01, 0.001]
    assert summary.gaussianity is not None


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    made = recording(probes=2)
    made.save(tmp_path / "r.npz")
    found = Recording.load(tmp_path / "r.npz")
    assert found.facts == made.facts
    for name in ("row", "step"):
        assert np.array_equal(getattr(found.observations, name), getattr(made.observations, name))
    np.testing.assert_allclose(found.observations.alignment, made.observations.alignment, rtol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(found.held_out, made.held_out, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found.item_alignment, made.item_alignment, strict=True))
    np.testing.assert_array_equal(found.tokens_left_out, made.tokens_left_out)
    replace(made, tokens_left_out=None).save(tmp_path / "older.npz")
    assert Recording.load(tmp_path / "older.npz").tokens_left_out is None
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises((OSError, KeyError, ValueError)):
        Recording.load(tmp_path / "junk.npz")


def test_a_recording_from_before_the_encoding_was_noted_says_nothing_of_it() -> None:
    facts = recording().facts
    assert RunFacts.model_validate(facts.model_dump(exclude={"encoding"})) == facts


def test_traces_add_up_to_mu_and_skip_what_was_not_observed() -> None:
    made = recording(reference=False)
    made.observations.alignment[:80] = np.nan
    made.observations.effect[:80] = np.nan
    table = trace_table([made], [7]).to_pydict()
    assert len(table["row"]) == len(made.observations) - 80
    assert set(table["seed"]) == {7}
    assert table["row"] == sorted(table["row"])
    total = np.bincount(table["row"], table["mu"], minlength=ROWS)
    np.testing.assert_allclose(total, score([made], question()).probes[0].mu, atol=1e-9)


def test_tracin_is_the_sum_over_steps() -> None:
    made = recording(reference=False)
    found = tracin_of_seed(made, ROWS, 0)
    for row in (0, 100):
        own = made.observations.row == row
        rate = made.steps.learning_rate[made.observations.step[own]]
        assert found[row] == pytest.approx((rate * made.product[own, 0]).sum())


def test_groups_are_named() -> None:
    assert group_of({"source": "web"}, "source") == "web"
    assert group_of({"source": 3}, "source") == "3"
    assert group_of({"source": None}, "source") is None
    assert group_of({}, "source") is None
    assert group_of({"source": "web"}, None) is None


def test_items_that_all_share_sentences_are_not_held_out() -> None:
    words = ("amber", "birch", "cedar", "dahlia", "elder", "fern")
    apart = Probe(name="a", items=tuple(ProbeItem(prompt=f"{w}?", unwanted=f"Buy {w} at once.") for w in words))
    alike = Probe(name="b", items=tuple(ProbeItem(prompt=f"{w}?", unwanted="Buy it now. Really.") for w in words))
    directions = directions_of([apart, alike], seed=0)
    assert len(np.unique(directions.held_out[0])) == 5
    assert (directions.held_out[1] == -1).all()
    assert len(directions.columns(1, Kind.PLACEBO)) == 10
