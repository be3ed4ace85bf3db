"""What all tables stand on: names of constraints, and what Python's types are in Postgres."""

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, Double, LargeBinary, MetaData, Text, func
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints get the same name in every database, so that a migration can drop one."""


class Base(DeclarativeBase):
    """Declarative base: text is `text`, times are `timestamptz`, dicts and lists are `jsonb`."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads a plain dict
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
        float: Double,
        bytes: LargeBinary,
    }


def created_at() -> Mapped[datetime]:
    """A column that is set by the database's clock."""
    return mapped_column(server_default=func.now())
