"""The page of base models, and the forms on it for admins."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from service.contract.spec import ModelSource
from service.errors import InvalidError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.pagination import PageDep
from service.models import actions
from service.models.queries import list_models
from service.models.schemas import ModelCreate, render_model
from service.principal import Principal
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_list

router = APIRouter(route_class=PageRoute)

Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.get("/models")
def models(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """Show all models, the newest first, and to admins the form for another."""
    found = list_models(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda model: model.id, render=render_model)
    return answer_list(request, "models", principal, listed, folders=principal.administers_installation)


@router.post("/models")
def create(principal: Admin, session: SessionDep, form: FormDep) -> Response:
    """Register a model, and go back to the list."""
    try:
        body = ModelCreate(
            name=form.get("name", ""),
            source=ModelSource(form.get("source", "")),
            location=form.get("location", "").strip(),
            revision=form.get("revision", "").strip() or None,
        )
    except (ValidationError, ValueError):
        raise InvalidError(
            "invalid_request",
            "Name the model in lower-case letters, digits, dots and dashes, and say where it is: owner/name with a "
            "commit of 40 digits on the hub, or a folder of the server.",
        ) from None
    actions.create(session, principal, body)
    return see_other("/models")


@router.post("/models/{model_id}/delete")
def delete(model_id: PathId, principal: Admin, session: SessionDep) -> Response:
    """Remove a model that no audit uses from the register, and go back to the list."""
    actions.delete(session, principal, model_id)
    return see_other("/models")
