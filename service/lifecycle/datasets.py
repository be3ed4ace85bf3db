"""Commands on the background count of a dataset's near-duplicates. The dataset is whole without it."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.contract.results import NearDuplicates
from service.lifecycle.claims import Claim
from service.lifecycle.job_rows import add_job
from service.lifecycle.jobs import succeed
from service.store.tables import Dataset


def queue_duplicate_count(session: Session, *, workspace_id: str, dataset_id: str, request_id: str | None) -> None:
    """Writes the queued job that counts the near-duplicates of a dataset just recorded."""
    add_job(session, kind="dataset", subject_id=dataset_id, workspace_id=workspace_id, request_id=request_id)


def publish_near_duplicates(session: Session, claim: Claim, counted: NearDuplicates | None) -> bool:
    """Writes what was counted (None: the dataset is gone), and ends the job. False: fenced, and nothing changes."""
    job = succeed(session, claim)
    if job is None:
        return False
    if counted is not None:
        session.execute(
            update(Dataset).where(Dataset.id == job.subject_id).values(near_duplicates=counted.model_dump(mode="json"))
        )
    return True
