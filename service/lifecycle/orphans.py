"""Objects of datasets without a row: what an upload has left whose process was killed, or whose commit was lost."""

import logging
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.store.objects import ObjectStore, dataset_key, datasets_prefix
from service.store.tables import Dataset, Workspace

UNTOUCHED = timedelta(days=1)
"""An upload writes all the while, and its row comes right after its objects."""

log = logging.getLogger(__name__)


def sweep_datasets(
    sessions: sessionmaker[Session], objects: ObjectStore, *, untouched: timedelta = UNTOUCHED
) -> list[str]:
    """Delete the objects of datasets that have no row, in the workspaces that the database knows.

    Args:
        sessions: Says which workspaces and datasets there are.
        objects: Where their objects lie.
        untouched: Only what nobody has written to for so long.

    Returns:
        The ids of the datasets that never were.

    Raises:
        ObjectStoreUnavailableError: The store does not answer.
        OperationalError: The database is away.
    """
    swept = []
    with sessions() as session:
        workspace_ids = session.scalars(select(Workspace.id).order_by(Workspace.id)).all()
    for workspace_id in workspace_ids:
        found = objects.untouched(datasets_prefix(workspace_id), untouched)
        # Rows are read after the objects: one that came in between is known.
        with sessions() as session:
            known = set(session.scalars(select(Dataset.id).where(Dataset.workspace_id == workspace_id)))
        for dataset_id in found:
            if dataset_id not in known and objects.delete_tree(dataset_key(workspace_id, dataset_id)):
                log.warning("dataset %s was never recorded; its objects are deleted", dataset_id)
                swept.append(dataset_id)
    return swept
