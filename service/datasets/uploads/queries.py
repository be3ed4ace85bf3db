"""Reading uploads in parts."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.principal import Principal
from service.scoping import scoped
from service.store.tables import Upload, UploadPart


def find_upload(session: Session, principal: Principal, upload_id: str, *, lock: bool = False) -> Upload:
    """Read an upload that has not expired.

    Args:
        session: An open transaction.
        principal: Who is asking.
        upload_id: Which upload.
        lock: Whether to keep others from changing it until the transaction ends.

    Raises:
        NotFoundError: `upload_not_found`.
    """
    query = scoped(Upload, principal).where(Upload.id == upload_id, Upload.expires_at > func.now())
    found = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if found is None:
        raise NotFoundError("upload", "There is no upload of this id, or it has expired. Begin a new one.")
    return found


def list_parts(session: Session, upload: Upload) -> list[str]:
    """Read the names of an upload's objects, in the order of their bytes.

    Args:
        session: An open transaction.
        upload: Found through the workspace.
    """
    of = UploadPart.workspace_id == upload.workspace_id, UploadPart.upload_id == upload.id
    return list(session.scalars(select(UploadPart.name).where(*of).order_by(UploadPart.start)))
