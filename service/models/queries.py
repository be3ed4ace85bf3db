"""Reads models."""

from collections.abc import Sequence

from sqlalchemy import or_
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.principal import Principal
from service.scoping import scoped
from service.store.newest_first import newest_first
from service.store.tables import Model


def find_model(session: Session, principal: Principal, id_or_name: str) -> Model:
    """Return one model.

    Args:
        session: An open transaction.
        principal: Who is asking.
        id_or_name: The model's id or its name; no name looks like an id.

    Raises:
        NotFoundError: `model_not_found`.
    """
    query = scoped(Model, principal).where(or_(Model.id == id_or_name, Model.name == id_or_name))
    model = session.scalars(query).one_or_none()
    if model is None:
        raise NotFoundError("model")
    return model


def list_models(session: Session, principal: Principal, *, after: str | None, limit: int) -> Sequence[Model]:
    """Return the workspace's models, the newest first.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the last model of the page before; None for the first page.
        limit: The most models to return.
    """
    return session.scalars(newest_first(scoped(Model, principal), Model.id, after=after, limit=limit)).all()
