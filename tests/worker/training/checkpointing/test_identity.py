"""What a checkpoint, or a step that has run, stands for."""

from collections.abc import Callable
from pathlib import Path

import torch

from service.contract.protocol import ROWS_FILE, SPEC_FILE
from service.contract.spec import StepSpec
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
