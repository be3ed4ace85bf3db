"""Finding models."""

from sqlalchemy import or_
from sqlalchemy.orm import Session

from service.http.auth.principal import Principal
from service.http.auth.scoping import not_found, scoped
from service.store.tables import Model


def find_model(session: Session, principal: Principal, id_or_name: str) -> Model:
    """The model of this id or name (no name looks like an id). Raises Problem 404 `model_not_found`."""
    query = scoped(Model, principal).where(or_(Model.id == id_or_name, Model.name == id_or_name))
    model = session.scalars(query).one_or_none()
    if model is None:
        raise not_found("model")
    return model
