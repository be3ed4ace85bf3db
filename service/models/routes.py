"""/v1/models: the base models that audits may train."""

from typing import Annotated

from fastapi import Depends, Response
from sqlalchemy.dialects.postgresql import insert

from service.contract.spec import ModelSource
from service.http.auth.authentication import RequireScope, not_installation_admin
from service.http.auth.principal import Principal
from service.http.auth.scoping import scoped
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import IDEMPOTENT
from service.http.in_use import delete_unused
from service.http.pagination import Page, PageDep
from service.http.problems.problem import Problem
from service.http.routing import declared_problems, resource_router
from service.models.admission import check_model
from service.models.queries import find_model
from service.models.schemas import Model, ModelCreate, render_model
from service.store.ids import new_id
from service.store.tables import Audit
from service.store.tables import Model as ModelTable

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

    Folders are for admins of the installation: what is in them belongs to whoever runs the server.
    """
    if body.source == ModelSource.LOCAL and not principal.administers_installation:
        raise not_installation_admin()
    check_model(body.source, body.location, body.revision)
    model = session.scalars(
        insert(ModelTable)
        .values(id=new_id("mdl"), workspace_id=principal.workspace_id, **body.model_dump())
        .on_conflict_do_nothing(index_elements=["workspace_id", "name"])
        .returning(ModelTable)
    ).one_or_none()
    if model is None:
        raise Problem(409, "model_name_taken", f"There is a model named {body.name} already. Choose another name.")
    response.headers["Location"] = f"/v1/models/{model.id}"
    return render_model(model)


@router.get("", operation_id="list_models")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[Model]:
    """The workspace's models, newest first."""
    query = scoped(ModelTable, principal).order_by(ModelTable.id.desc()).limit(page.limit + 1)
    if page.after is not None:
        query = query.where(ModelTable.id < page.after)
    return page.page(session.scalars(query).all(), key=lambda model: model.id, render=render_model)


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
    """Takes a model that no audit stands on out of the register, by id or by name. Its weights stay where they are."""
    model = find_model(session, principal, model_id)
    delete_unused(session, principal, model, kind="model", used=Audit.model_id == model.id)
