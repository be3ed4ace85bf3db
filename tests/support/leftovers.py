"""Everything that an installation still holds of an id, wherever it stands: for tests of deletions."""

from pathlib import Path

from sqlalchemy import Engine, func, inspect, text, update
from sqlalchemy.orm import Session, sessionmaker

from service.store.tables import AuditData


def rows_naming(engine: Engine, identity: str) -> dict[str, int]:
    """Of every table that has some, the number of rows with the id anywhere in them, in text, JSON and arrays too."""
    found = {}
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            query = f'SELECT count(*) FROM "{table}" AS one WHERE position(:identity IN one::text) > 0'
            if number := connection.scalar(text(query), {"identity": identity}):
                found[table] = number
        # Scores name their list alone; one of no list would be found by nobody any more.
        lists = "SELECT id FROM score_lists WHERE position(:identity IN score_lists::text) > 0"
        query = f"SELECT count(*) FROM scores WHERE list_id IN ({lists})"
        if number := connection.scalar(text(query), {"identity": identity}):
            found["scores"] = number
        if number := connection.scalar(
            text("SELECT count(*) FROM scores WHERE list_id NOT IN (SELECT id FROM score_lists)")
        ):
            found["scores of no list"] = number
    return found


def pass_readers_minute(sessions: sessionmaker[Session]) -> None:
    """As if the minute were over for which a deleted audit's data stay for who was just reading them."""
    with sessions.begin() as session:
        session.execute(update(AuditData).values(purge_at=func.now()).where(AuditData.purge_at.is_not(None)))


def files_naming(root: Path, identity: str) -> list[str]:
    """Files and folders of a local object store whose path has the id."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if identity in str(path.relative_to(root)))
