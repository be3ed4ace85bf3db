"""What goes into a child's folder and what comes out of it: spec, rows and recordings in, recordings or results out."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import orjson
from pydantic import ValidationError

from service.contract.failure import ErrorCode, Failure
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
from service.lifecycle.jobs import Claim
from service.store.objects import ObjectMissingError, ObjectStore, audit_key


class InputMissingError(Exception):
    """What the step needs is not in the object store."""

    def __init__(self, what: str) -> None:
        """`what` ends the sentence "... in the object store"."""
        super().__init__(what)
        self.failure = Failure(
            code=ErrorCode.INPUT_MISSING,
            message=f"{what} not in the object store.",
            hint="Check that API and worker share one object store (FINETOOTH_OBJECT_DIR or FINETOOTH_OBJECT_URL); "
            "or upload the dataset again and start the audit again.",
        )


class OutputError(Exception):
    """The child said that it had finished, but its files are not what the contract promises."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.failure = Failure(
            code=ErrorCode.INTERNAL,
            message=f"The training run ended with unusable results: {what}.",
            hint="This is a defect in Finetooth; the worker's log has more.",
        )


def spec_sha256(spec: StepSpec) -> str:
    """Identifies a step: of its canonical JSON without what changes no result, so that a retry is the same step."""
    content = spec.model_dump(mode="json", exclude={"attempt", "checkpoint_seconds"})
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def stage_inputs(folder: Path, spec: StepSpec, objects: ObjectStore, rows: str, recordings: Mapping[int, str]) -> None:
    """Writes spec.json and copies the dataset's rows and each seed's recording, given by their keys.

    Raises InputMissingError, ObjectStoreUnavailableError, OSError.
    """
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    # Copies, not links: the child must not be able to change what is stored.
    _fetch(objects, rows, folder / ROWS_FILE, "The dataset's rows are")
    if recordings:
        (folder / RECORDINGS_FOLDER).mkdir()
    for seed, recording in recordings.items():
        _fetch(objects, recording, folder / RECORDINGS_FOLDER / f"{seed}.npz", f"The recording of seed {seed} is")


def _fetch(objects: ObjectStore, key: str, target: Path, what: str) -> None:
    try:
        objects.fetch(key, target)
    except ObjectMissingError:
        raise InputMissingError(what) from None


def check_recording(folder: Path) -> None:
    """Raises OutputError where the child left no readable recording.npz."""
    path = folder / RECORDING_FILE
    if not path.is_file():
        raise OutputError(f"there is no {RECORDING_FILE}")
    if not zipfile.is_zipfile(path):
        raise OutputError(f"{RECORDING_FILE} is not an npz file")


def read_summary(folder: Path, spec: StepSpec, rows: int) -> Summary:
    """The child's summary of a dataset of `rows` samples. Raises OutputError."""
    try:
        summary = Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    except FileNotFoundError:
        raise OutputError(f"there is no {SUMMARY_FILE}") from None
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, part["loc"])) for part in error.errors()}))
        raise OutputError(f"{SUMMARY_FILE} does not fit the contract ({fields})") from None
    for what, found, expected in (
        ("rows", summary.rows, rows),
        ("probes", len(summary.probes), len(spec.probes)),
        ("seeds", summary.seeds, spec.seeds),
    ):
        if found != expected:
            raise OutputError(f"{SUMMARY_FILE} is of {found} {what}, not {expected}")
    return summary


def store_outputs(objects: ObjectStore, claim: Claim, step_key: str, folder: Path) -> None:
    """Puts the child's files into the object store, where they stay.

    Raises OutputError, ObjectStoreUnavailableError, OSError.
    """
    for name in output_files(step_key):
        if not (folder / name).is_file():
            raise OutputError(f"there is no {name}")
        objects.put_file(audit_key(claim.workspace_id, claim.subject_id, claim.attempt, step_key, name), folder / name)
