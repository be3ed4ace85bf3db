"""/v1/models: the base models that audits may train."""

from typing import Annotated

from fastapi import Depends, Response

from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import IDEMPOTENT
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.models import actions
from service.models.queries import find_model, list_models
from service.models.schemas import Model, ModelCreate, render_model
from service.principal import Principal

router = resource_router("models")
Reader = Annotated[Principal, Depends(RequireScope())]
Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.post(
    "",
    status_code=201,
    operation_id="create_model",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(
        403,
        409,
        "installation_admin_only",
        "model_name_taken",
        "model_invalid",
        "model_folder_invalid",
        "model_unsafe",
    ),
)
def create(body: ModelCreate, principal: Admin, session: SessionDep, response: Response) -> Model:
    """Registers a base model: a hub id with a pinned commit, or a folder of safetensors on the server.

    Folders are for admins of the installation: their content belongs to the operator of the server.
    """
    model = actions.create(session, principal, body)
    response.headers["Location"] = f"/v1/models/{model.id}"
    return model


@router.get("", operation_id="list_models")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[Model]:
    """The workspace's models, newest first."""
    found = list_models(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda model: model.id, render=render_model)


@router.get("/{model_id}", operation_id="get_model", responses=declared_problems(404) | NOT_MODIFIED)
def get(model_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Model:
    """One model, by id or by name."""
    model = find_model(session, principal, model_id)
    conditions.serve(strong_tag(model.id))  # immutable
    return render_model(model)


@router.delete(
    "/{model_id}",
    status_code=204,
    operation_id="delete_model",
    responses=declared_problems(403, 404, 409, "model_in_use"),
)
def delete(model_id: PathId, principal: Admin, session: SessionDep) -> None:
    """Removes a model that no audit uses, by id or by name. Its weights stay, unless they are in the object store."""
    actions.delete(session, principal, model_id)
