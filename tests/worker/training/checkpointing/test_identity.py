"""What a checkpoint, or a step that has run, stands for."""

from collections.abc import Callable
from pathlib import Path

import torch

from service.contract.protocol import ROWS_FILE, SPEC_FILE
from service.contract.spec import StepSpec, TrainingConfig
from worker.supervisor.audit.step_folder import spec_sha256
from worker.training.checkpointing.identity import run_identity


def test_runs_on_other_turns_are_never_mixed(staged: Callable[..., Path]) -> None:
    identities, hashes = [], set()
    for turns in ("assistant", "all"):
        folder = staged(audit_turns=turns)
        spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        identities.append(run_identity(spec, folder / ROWS_FILE, torch.device("cpu"), torch.float32))
        hashes.add(spec_sha256(spec))
    one, other = identities
    assert {name for name in one if one[name] != other[name]} == {"training"}
    assert len(hashes) == 2


def test_a_run_goes_on_with_what_changes_memory_alone(staged: Callable[..., Path]) -> None:
    """Whoever never set it keeps the identity of old."""
    identities, hashes = [], []
    for changed in ({}, {"micro_batch_size": 3}, {"gradient_checkpointing": True}):
        folder = staged(**changed)
        spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        identities.append(run_identity(spec, folder / ROWS_FILE, torch.device("cpu"), torch.float32))
        hashes.append(spec_sha256(spec))
    assert identities[0] == identities[1] == identities[2]
    assert identities[0]["training"] == TrainingConfig(learning_rate=1e-3).model_dump_json(
        exclude={"gradient_checkpointing"}
    )
    assert len(set(hashes)) == 1
