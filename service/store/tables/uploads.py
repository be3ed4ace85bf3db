"""Uploads that come in parts, each an object of its own until all of them have become a dataset."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at


class Upload(Base):
    """A file on its way in. Its row goes when it has expired, or with the dataset that it became."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str | None]
    """What the client calls the file."""
    sent_metadata: Mapped[str] = mapped_column("metadata")
    """The `Upload-Metadata` of its creation, as it came."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    """How many it will have."""
    received: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """How many have come and are kept: the offset of the next part."""
    parts: Mapped[int] = mapped_column(server_default="0")
    """How many objects hold them."""
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    finishing_until: Mapped[datetime | None]
    """Until then a process is making the dataset, and no other begins."""
    refusal: Mapped[dict[str, Any] | None]
    """{form, status, code, detail, errors}: why the file was refused when it was last read, and read as what."""
    dataset_id: Mapped[str | None]
    """What it has become; its parts are deleted then."""
    __table_args__ = (
        CheckConstraint("received BETWEEN 0 AND bytes", name="received"),
        ForeignKeyConstraint(
            ["workspace_id", "dataset_id"], ["datasets.workspace_id", "datasets.id"], ondelete="CASCADE"
        ),
        UniqueConstraint("workspace_id", "id"),
        Index(None, "expires_at"),
        Index(None, "dataset_id"),
    )


class UploadPart(Base):
    """The bytes of an upload from `start` on that one object holds."""

    __tablename__ = "upload_parts"
    workspace_id: Mapped[str]
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str]
    """Name of the object, in the upload's folder."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "upload_id"], ["uploads.workspace_id", "uploads.id"], ondelete="CASCADE"),
    )
