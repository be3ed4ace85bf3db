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


class Workspace(BaseModel):
    """A tenant: keys, datasets, probes, models and audits belong to one, and no other sees them."""

    object: Literal["workspace"] = "workspace"
    id: str
    name: str
    created_at: datetime


def render_workspace(workspace: WorkspaceTable) -> Workspace:
    """Show the workspace as the API does."""
    return Workspace.model_validate(workspace, from_attributes=True)
