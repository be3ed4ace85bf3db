"""The page of what workspaces have and may have, with the forms for admins of the installation: limits, deletion."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from service.errors import InvalidError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep, SettingsDep
from service.http.fields import PathId
from service.http.pagination import PageDep
from service.principal import Principal
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_list
from service.workspaces import actions
from service.workspaces.queries import list_workspaces
from service.workspaces.schemas import WorkspaceChange, render_workspace
from service.workspaces.usage import read_usage

router = APIRouter(route_class=PageRoute)

DELETION_STEPS = {
    "stopping": "what runs is stopped",
    "deleting": "what it has is deleted",
    "clearing": "files and results are cleared away",
}
"""What is done just now, in words; a workspace that is deleted is not on the page."""

Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.get("/usage")
def usage(request: Request, principal: Reader, session: SessionDep, settings: SettingsDep, page: PageDep) -> Response:
    """Show what the workspace has; to admins of the installation, every workspace, the newest first."""
    found = list_workspaces(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda workspace: workspace.id, render=render_workspace)
    return answer_list(
        request,
        "usage",
        principal,
        listed,
        usages={workspace.id: read_usage(session, principal, workspace.id, settings) for workspace in listed.data},
        own=principal.workspace_id,
        may_set=principal.administers_installation,
        deletion_steps=DELETION_STEPS,
        kept=[
            ("Exports", settings.export_days, "after their end"),
            ("Recordings of audits", settings.recording_days, "after the audit's end"),
            ("Audits", settings.audit_days, "after their end, with findings, verdicts and exports"),
            ("Datasets without an audit", settings.dataset_days, "after their upload"),
        ],
    )


@router.post("/usage/{workspace_id}/limits")
def set_limits(workspace_id: PathId, principal: Admin, session: SessionDep, form: FormDep) -> Response:
    """Set a workspace's limits, and go back to the list. An empty field: the installation's setting holds."""
    typed = {name: form.get(name, "").strip() or None for name in WorkspaceChange.model_fields}
    try:
        body = WorkspaceChange.model_validate(typed)
    except ValidationError:
        raise InvalidError(
            "invalid_request",
            "A limit is a whole number from 1 on. Leave a field empty for the installation's setting.",
        ) from None
    actions.change(session, principal, workspace_id, body)
    return see_other("/usage")


@router.post("/usage/{workspace_id}/delete")
def delete(workspace_id: PathId, principal: Admin, session: SessionDep, form: FormDep) -> Response:
    """Delete a workspace whose name was typed, and go back to the list, which says how far that is."""
    actions.delete(session, principal, workspace_id, form.get("name", ""))
    return see_other("/usage")
