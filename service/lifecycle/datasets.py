"""Commands on what is found out about a dataset in the background: its near-duplicates, and what changed in a version.

The dataset can be used without either. Also what a deleted version leaves to the versions beside it.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.contract.results import NearDuplicates
from service.contract.versions import VersionChanges
from service.lifecycle.claims import Claim
from service.lifecycle.job_rows import add_job
from service.lifecycle.jobs import succeed
from service.store.tables import Dataset


def queue_duplicate_count(session: Session, *, workspace_id: str, dataset_id: str, request_id: str | None) -> None:
    """Write the queued job that counts the near-duplicates of a dataset that was just recorded.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
        dataset_id: Id of the dataset.
        request_id: Id of the request that asks for it, for the logs; None without one.
    """
    add_job(session, kind="dataset", subject_id=dataset_id, workspace_id=workspace_id, request_id=request_id)


def publish_near_duplicates(session: Session, claim: Claim, counted: NearDuplicates | None) -> bool:
    """Store the count of near-duplicates and end the job.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.
        counted: What was counted; None if the dataset has been deleted meanwhile.

    Returns:
        False if the claim no longer holds the job or a cancel came first; then nothing changes.
    """
    job = succeed(session, claim)
    if job is None:
        return False
    if counted is not None:
        session.execute(
            update(Dataset).where(Dataset.id == job.subject_id).values(near_duplicates=counted.model_dump(mode="json"))
        )
    return True


def queue_version_comparison(session: Session, *, workspace_id: str, dataset_id: str, request_id: str | None) -> None:
    """Write the queued job that compares a dataset with the one that it replaces.

    Args:
        session: An open transaction.
        workspace_id: Whose dataset it is.
        dataset_id: The newer of the two.
        request_id: Id of the request that makes them neighbours.
    """
    add_job(session, kind="version", subject_id=dataset_id, workspace_id=workspace_id, request_id=request_id)


def publish_version_changes(session: Session, claim: Claim, changes: VersionChanges | None) -> bool:
    """Write what has changed, and end the job.

    Args:
        session: An open transaction.
        claim: The worker's.
        changes: None: there is nothing to compare. They are dropped where the dataset replaces another by now.

    Returns:
        False: fenced, and nothing changes.
    """
    job = succeed(session, claim)
    if job is None:
        return False
    if changes is not None:
        session.execute(
            update(Dataset)
            .where(Dataset.id == job.subject_id, Dataset.replaces_id == changes.replaces_id)
            .values(changes=changes.model_dump(mode="json"))
        )
    return True


def close_gap(session: Session, dataset: Dataset, *, request_id: str | None) -> None:
    """Let the version after a dataset that is about to be deleted replace the one before it.

    Args:
        session: An open transaction.
        dataset: The one that goes, read in this session.
        request_id: Id of the request that deletes it.
    """
    # Whoever is just naming it as replaced holds this row a little, and is waited for.
    session.execute(select(Dataset.id).where(Dataset.id == dataset.id).with_for_update())
    before = session.scalar(select(Dataset.replaces_id).where(Dataset.id == dataset.id))
    # First of all, as no two datasets replace the same one.
    session.execute(update(Dataset).where(Dataset.id == dataset.id).values(replaces_id=None))
    after = session.scalar(
        update(Dataset)
        .where(Dataset.replaces_id == dataset.id)
        .values(replaces_id=before, changes=None)
        .returning(Dataset.id)
    )
    if after is not None and before is not None:
        queue_version_comparison(session, workspace_id=dataset.workspace_id, dataset_id=after, request_id=request_id)
