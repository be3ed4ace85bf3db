"""The folder that a step's child works in: what the supervisor puts into it, and what it takes out of it."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from service.contract.protocol import (
    RECORDING_FILE,
    RECORDINGS_FOLDER,
    ROWS_FILE,
    SPEC_FILE,
    SUMMARY_FILE,
    output_files,
)
from service.contract.results import Summary
from service.contract.spec import StepSpec
from service.contract.stored_models import StoredModel
from service.lifecycle.jobs import Claim
from service.store.objects import ObjectMissingError, ObjectStore, audit_key, step_prefix
from worker.supervisor.audit.checkpoint_store import CheckpointUploads, delete_checkpoints, stage_checkpoints
from worker.supervisor.database import delete_unless_committed
from worker.supervisor.errors import InputMissingError, OutputError


@dataclass(frozen=True)
class StoredInput:
    """A model whose files lie in the object store."""

    model_id: str
    files: StoredModel


@dataclass(frozen=True)
class StepInputs:
    """What a step is made of."""

    spec: StepSpec
    dataset: str
    """Key of the stored rows.parquet."""
    rows: int
    recordings: Mapping[int, str]
    """The recordings of other steps that this one needs: a stored object's key by seed."""
    model: StoredInput | None = None
    """The files of the model, for a step that trains one from the object store."""


def spec_sha256(spec: StepSpec) -> str:
    """Return the hash that identifies a step.

    It covers the canonical JSON without what changes no result, so that a retry is the same step.
    """
    content = spec.model_dump(mode="json", exclude={"attempt", "checkpoint_seconds", "noticed"})
    # Set to its default, not left out: the hash of whoever never set it is then that of earlier versions.
    content["training"]["micro_batch_size"] = None
    # Younger than stored hashes, which do not know it.
    del content["training"]["gradient_checkpointing"]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


class StepFolder:
    """Fills the folder of one step, then checks and stores what the child has left in it."""

    def __init__(self, path: Path, inputs: StepInputs, objects: ObjectStore, claim: Claim) -> None:
        """Use the empty folder at `path`; nothing is written yet."""
        self.path = path
        self.inputs = inputs
        self._objects = objects
        self._claim = claim

    @property
    def step_key(self) -> str:
        """The key of the step within its audit."""
        return self.inputs.spec.step_key

    def stage_inputs(self) -> None:
        """Write spec.json, and copy the dataset's rows and the recordings of other steps.

        Raises:
            InputMissingError: One of them is not in the object store.
            ObjectStoreUnavailableError: The object store cannot be reached.
            OSError: The folder cannot be written.
        """
        (self.path / SPEC_FILE).write_text(self.inputs.spec.model_dump_json())
        # Copies, not links: the child must not be able to change what is stored.
        self._fetch(self.inputs.dataset, self.path / ROWS_FILE, "The dataset's rows are")
        folder = self.path / RECORDINGS_FOLDER
        if self.inputs.recordings:
            folder.mkdir()
        for seed, recording in self.inputs.recordings.items():
            self._fetch(recording, folder / f"{seed}.npz", f"The recording of seed {seed} is")

    def _fetch(self, key: str, target: Path, what: str) -> None:
        try:
            self._objects.fetch(key, target)
        except ObjectMissingError:
            raise InputMissingError(what) from None

    def stage_checkpoints(self) -> None:
        """Copy the last checkpoints of the step, for the child to go on from. Raises as `stage_inputs` does."""
        stage_checkpoints(self._objects, self._claim, self.step_key, self.path)

    def upload_checkpoints(self, ours: Callable[[], bool]) -> CheckpointUploads:
        """Begin to copy the child's checkpoints into the object store, for as long as `ours` returns True."""
        return CheckpointUploads(self._objects, self._claim, self.step_key, self.path, ours=ours)

    def delete_checkpoints(self) -> None:
        """Delete the step's stored checkpoints, which nobody needs once it has finished."""
        delete_checkpoints(self._objects, self._claim, self.step_key)

    def check_recording(self) -> None:
        """Check that the child has left a readable recording.npz.

        Raises:
            OutputError: It has not.
        """
        path = self.path / RECORDING_FILE
        if not path.is_file():
            raise OutputError(f"there is no {RECORDING_FILE}")
        if not zipfile.is_zipfile(path):
            raise OutputError(f"{RECORDING_FILE} is not an npz file")

    def read_summary(self) -> Summary:
        """Return the summary that the child has left.

        Raises:
            OutputError: There is none, or it is not one of this audit.
        """
        try:
            summary = Summary.model_validate_json((self.path / SUMMARY_FILE).read_bytes())
        except FileNotFoundError:
            raise OutputError(f"there is no {SUMMARY_FILE}") from None
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, part["loc"])) for part in error.errors()}))
            raise OutputError(f"{SUMMARY_FILE} does not fit the contract ({fields})") from None
        spec = self.inputs.spec
        for what, found, expected in (
            ("rows", summary.rows, self.inputs.rows),
            ("probes", len(summary.probes), len(spec.probes)),
            ("seeds", summary.seeds, spec.seeds),
        ):
            if found != expected:
                raise OutputError(f"{SUMMARY_FILE} is of {found} {what}, not {expected}")
        return summary

    def output_bytes(self) -> int:
        """How many bytes the files have that are stored."""
        return sum((self.path / name).stat().st_size for name in output_files(self.step_key))

    def store_outputs(self, commit: Callable[[], bool]) -> bool:
        """Store the child's files, and delete them again if `commit` does not name them in the database.

        Args:
            commit: Called once the files are stored; see `delete_unless_committed`.

        Returns:
            What `commit` returned.

        Raises:
            OutputError: One of the files is missing.
            ObjectStoreUnavailableError: The object store cannot be reached.
            OSError: A file cannot be read or stored.
        """
        claim, step_key = self._claim, self.step_key

        def store_and_commit() -> bool:
            for name in output_files(step_key):
                if not (self.path / name).is_file():
                    raise OutputError(f"there is no {name}")
                key = audit_key(claim.workspace_id, claim.subject_id, claim.attempt, step_key, name)
                self._objects.put_file(key, self.path / name)
            return commit()

        prefix = step_prefix(claim.workspace_id, claim.subject_id, claim.attempt, step_key)
        return delete_unless_committed(self._objects, prefix, store_and_commit)
