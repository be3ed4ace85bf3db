"""What the supervisor takes out of a step's folder: only a summary of this very audit is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.contract.results import Summary
from service.contract.spec import ModelSpec, Probe, ProbeItem, StepSpec, TrainingConfig
from service.lifecycle.jobs import Claim
from service.store.local_objects import LocalObjects
from tests.support.children.scripting import SUMMARY
from worker.supervisor.audit.step_folder import StepFolder, StepInputs, spec_sha256
from worker.supervisor.errors import OutputError

SPEC = StepSpec(
    audit_id="aud_1", attempt=1, step_key="combine", model=ModelSpec(source="hub", location="o/m"),
    training=TrainingConfig(seed=7), seeds=(7,), q=0.1,
    probes=(Probe(name="p", items=(ProbeItem(prompt="p", unwanted="u"),)),),
)  # fmt: skip


def test_a_step_is_known_by_its_spec_whatever_the_attempt() -> None:
    assert spec_sha256(SPEC) == spec_sha256(SPEC.model_copy(update={"attempt": 2}))
    assert spec_sha256(SPEC) != spec_sha256(SPEC.model_copy(update={"q": 0.05}))


@pytest.fixture
def folder(tmp_path: Path, objects: LocalObjects) -> StepFolder:
    claim = Claim(job_id="job_1", kind="audit", workspace_id="ws_1", subject_id="aud_1", attempt=1, owner="me")
    return StepFolder(tmp_path, StepInputs(SPEC, dataset="", rows=40, recordings={}), objects, claim)


class TestSummary:
    @pytest.fixture
    def read(self, folder: StepFolder) -> Callable[..., Summary]:
        def go(**changes: Any) -> Summary:
            (folder.path / "summary.json").write_text(json.dumps(SUMMARY | changes))
            return folder.read_summary()

        return go

    def test_one_of_this_audit_is_read(self, read: Callable[..., Summary]) -> None:
        assert read().flagged == SUMMARY["flagged"]

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"q": None}, r"\(q\)"),
            ({"colour": "red"}, "colour"),
            ({"rows": 41}, "41 rows"),
            ({"seeds": [7, 8]}, "seeds"),
            ({"probes": SUMMARY["probes"] * 2}, "2 probes"),
        ],
    )
    def test_another_one_is_refused(self, read: Callable[..., Summary], changes: dict[str, Any], says: str) -> None:
        with pytest.raises(OutputError, match=says):
            read(**changes)

    def test_none_at_all(self, folder: StepFolder) -> None:
        with pytest.raises(OutputError, match="there is no summary"):
            folder.read_summary()
