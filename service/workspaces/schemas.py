"""Workspaces as the API shows and takes them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.http.fields import Name
from service.store.tables import Workspace as WorkspaceTable


class WorkspaceCreate(BaseModel):
    """A new tenant."""

    model_config = ConfigDict(extra="forbid")
    name: Name = Field(description="No other workspace of the installation has it.")


MAX_BYTES = 2**53 - 1
"""The largest limit of storage: every JSON reader takes it as it is (RFC 8259, section 6)."""


class WorkspaceChange(BaseModel):
    """New limits of a workspace. What is left out stays as it is; null: the installation's setting holds again."""

    model_config = ConfigDict(extra="forbid")
    max_queued_audits: int | None = Field(default=None, ge=1, lt=2**31, description="Audits that wait for a worker.")
    max_running_audits: int | None = Field(default=None, ge=1, lt=2**31, description="Audits that run at once.")
    max_bytes: int | None = Field(
        default=None, ge=1, le=MAX_BYTES, description="Bytes of uploads, recordings and exports."
    )


class Deletion(BaseModel):
    """How far the deletion of a workspace is. Its keys work no more, and nobody is in it."""

    status: Literal["stopping", "deleting", "clearing", "deleted"] = Field(
        description="`stopping`: its audits and exports are cancelled; `deleting`: what it has is deleted; `clearing`: "
        "scores and files of what was deleted are cleared away; `deleted`: nothing is left."
    )
    requested_at: datetime
    deleted_at: datetime | None = Field(description="When the last of it was gone.")
    done: int = Field(description="Of `total`, how many are gone.")
    total: int = Field(
        description="Audits, their results, exports, datasets, uploads, probes and models, and one more for all files."
    )


class Workspace(BaseModel):
    """A tenant: keys, datasets, probes, models and audits belong to one, and no other sees them."""

    object: Literal["workspace"] = "workspace"
    id: str
    name: str
    created_at: datetime
    max_queued_audits: int | None = Field(description="Its own limit; null: the installation's setting holds.")
    max_running_audits: int | None = Field(description="Likewise.")
    max_bytes: int | None = Field(description="Likewise.")
    deletion: Deletion | None = Field(description="Null, unless the workspace is being deleted, or is deleted.")


class Use(BaseModel):
    """How much of something a workspace has, and how much it may have."""

    used: int
    limit: int | None = Field(description="Null: there is none.")


class StorageUse(Use):
    """Bytes in the object store: of what, and how many the workspace may have."""

    uploads: int = Field(description="Files of datasets, and unfinished uploads with the length they were begun with.")
    recordings: int = Field(description="Recordings and results of audits, but for those from before this was counted.")
    exports: int


class WorkspaceUsage(BaseModel):
    """What a workspace has of what is limited."""

    object: Literal["workspace.usage"] = "workspace.usage"
    workspace_id: str
    queued_audits: Use = Field(description="Audits that wait for a worker.")
    running_audits: Use = Field(description="Audits that workers hold; others wait while the limit is reached.")
    storage: StorageUse


def render_workspace(workspace: WorkspaceTable) -> Workspace:
    """Show the workspace as the API does."""
    return Workspace(
        id=workspace.id,
        name=workspace.name,
        created_at=workspace.created_at,
        max_queued_audits=workspace.max_queued_audits,
        max_running_audits=workspace.max_running_audits,
        max_bytes=workspace.max_bytes,
        deletion=_render_deletion(workspace),
    )


def _render_deletion(workspace: WorkspaceTable) -> Deletion | None:
    if workspace.deletion_requested_at is None:
        return None
    return Deletion.model_validate(
        {
            "status": "deleted" if workspace.deleted_at is not None else workspace.deletion_stage,
            "requested_at": workspace.deletion_requested_at,
            "deleted_at": workspace.deleted_at,
            "done": workspace.deletion_done,
            "total": workspace.deletion_total,
        }
    )
