"""What an audit stands on: datasets, probes and models."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base, created_at


class Dataset(Base):
    """An uploaded dataset whose objects are complete in the object store. Immutable."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    format: Mapped[str]
    """Record format: messages, alpaca, sharegpt, prompt_completion or mapped."""
    container: Mapped[str] = mapped_column(server_default="jsonl")
    """jsonl, json, csv, parquet or arrow."""
    encoding: Mapped[str]
    """identity, gzip or zstd."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the upload as it came."""
    sha256: Mapped[str]
    """SHA-256 of the upload as it came, in hexadecimal digits."""
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[list[str]]
    """Extra columns, in order of first appearance; any of them can serve as the group."""
    statistics: Mapped[dict[str, Any]]
    near_duplicates: Mapped[dict[str, Any] | None]
    """A contract.results.NearDuplicates, once a worker has counted them."""
    notices: Mapped[list[Any] | None]
    """[{kind, rows, first_rows, found}]; null for an upload of a version that looked for none."""
    replaces_id: Mapped[str | None]
    """The dataset of which this one is the next version. Where that one is deleted, the one before it."""
    changes: Mapped[dict[str, Any] | None]
    """A contract.versions.VersionChanges, once a worker has compared both."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (
        CheckConstraint("format IN ('messages','alpaca','sharegpt','prompt_completion','mapped')", name="format"),
        CheckConstraint("container IN ('jsonl','json','csv','parquet','arrow')", name="container"),
        CheckConstraint("encoding IN ('identity','gzip','zstd')", name="encoding"),
        ForeignKeyConstraint(["workspace_id", "replaces_id"], ["datasets.workspace_id", "datasets.id"]),
        UniqueConstraint("replaces_id"),
        UniqueConstraint("workspace_id", "id"),
    )


class Probe(Base):
    """A behaviour that a model must not learn: prompts with unwanted answers. Immutable."""

    __tablename__ = "probes"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    items: Mapped[list[Any]]
    """[{prompt, unwanted, reference?}]"""
    has_reference: Mapped[bool] = mapped_column(Boolean)
    """Whether every item has a reference answer."""
    pack: Mapped[dict[str, Any] | None]
    """{name, version, parameters} of the built-in pack that it was made from."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (UniqueConstraint("workspace_id", "id"),)


class Model(Base):
    """A base model that audits of the workspace may train."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    """Unique in the workspace; audits may name a model by it."""
    source: Mapped[str]
    location: Mapped[str]
    revision: Mapped[str | None]
    stored: Mapped[dict[str, Any] | None]
    """A contract.stored_models.StoredModel where its files lie in the object store. `source` is local then, for the
    sake of versions that know no other word for it, `location` names no folder, and `revision` is the digest."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (
        CheckConstraint("source IN ('hub','local','bundled')", name="source"),
        UniqueConstraint("workspace_id", "name"),
        UniqueConstraint("workspace_id", "id"),
    )
