"""The views of `bi`: as docs/bi.md has them, read by their role alone, each workspace under its own id, and right."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from service.local.postgres import SUPERUSER
from service.store.verdict_tables import Verdict
from tests.support.made_audits import make_published, make_queued

DOCUMENT = Path(__file__).parents[3] / "docs" / "bi.md"
Sessions = sessionmaker[Session]


def documented() -> dict[str, list[tuple[str, str]]]:
    body = DOCUMENT.read_text().split("<!-- bi-views:start -->", 1)[1].split("<!-- bi-views:end -->", 1)[0]
    found: dict[str, list[tuple[str, str]]] = {}
    for part in body.split("### ")[1:]:
        name = re.match(r"`bi\.(\w+)`", part)
        assert name
        found[name[1]] = re.findall(r"^\| `(\w+)` \| ([\w ]+?) \|", part, re.MULTILINE)
    return found


def test_the_document_has_every_view_with_its_columns(engine: Engine) -> None:
    query = (
        "SELECT table_name, column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'bi' ORDER BY table_name, ordinal_position"
    )
    found: dict[str, list[tuple[str, str]]] = {}
    with engine.connect() as connection:
        for view, column, kind in connection.execute(text(query)):
            found.setdefault(view, []).append((column, kind))
    assert found == documented()
    assert all(columns[0] == ("workspace_id", "text") for columns in found.values())


@pytest.fixture
def superuser(database_url: str) -> Iterator[Engine]:
    """An administrator of the server, in the service's database."""
    engine = create_engine(make_url(database_url).set(username=SUPERUSER))
    yield engine
    engine.dispose()


def test_the_role_reads_the_views_and_nothing_else(superuser: Engine) -> None:
    with superuser.connect() as connection:
        role = connection.execute(
            text("SELECT rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = 'finetooth_bi'")
        ).one()
        assert tuple(role) == (False, False, False)
        tables = connection.execute(
            text(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = 'public' AND c.relkind = 'r'"
            )
        ).scalars()
        for table in list(tables):
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                question = text("SELECT has_table_privilege('finetooth_bi', CAST(:table AS regclass), :right)")
                assert not connection.scalar(question, {"table": table, "right": right}), (table, right)
    with superuser.connect() as connection:
        connection.execute(text("SET ROLE finetooth_bi"))
        for view in documented():
            connection.execute(text(f"SELECT * FROM bi.{view}"))
            with pytest.raises(DBAPIError, match=r"permission denied|cannot delete"), connection.begin_nested():
                connection.execute(text(f"DELETE FROM bi.{view}"))
        with pytest.raises(ProgrammingError, match="permission denied"), connection.begin_nested():
            connection.execute(text("SELECT * FROM findings"))


def test_strangers_read_nothing(superuser: Engine) -> None:
    with superuser.begin() as connection:
        connection.execute(text("CREATE ROLE test_stranger NOLOGIN"))
        try:
            connection.execute(text("SET LOCAL ROLE test_stranger"))
            with pytest.raises(ProgrammingError, match="permission denied for schema bi"), connection.begin_nested():
                connection.execute(text("SELECT * FROM bi.audits"))
        finally:
            connection.execute(text("RESET ROLE"))
            connection.execute(text("DROP ROLE test_stranger"))


def test_no_view_holds_text(sessions: Sessions, workspace_id: str, engine: Engine) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id, texts=("a secret sentence",))
        session.add(verdict(audit.id, workspace_id, 3, "confirmed", note="a secret note"))
    with engine.connect() as connection:
        for view in documented():
            shown = str(connection.execute(text(f"SELECT * FROM bi.{view}")).all())
            assert "secret" not in shown, view


def verdict(audit_id: str, workspace_id: str, row: int, said: str | None, *, note: str = "", rank: int = 1) -> Verdict:
    return Verdict(
        audit_id=audit_id, row=row, workspace_id=workspace_id, verdict=said, note=note, key_id="key_1", revision=1,
        rank=rank, flagged=rank <= 21,
    )  # fmt: skip


def test_what_they_say(sessions: Sessions, workspace_id: str, other_workspace_id: str, engine: Engine) -> None:
    with sessions.begin() as session:
        audit = make_published(session, workspace_id)
        other = make_published(session, other_workspace_id, rows=80, flagged=4)
        waiting = make_queued(session, workspace_id)
        for rank, said in enumerate(("confirmed", "confirmed", "rejected", "unsure", None), start=1):
            session.add(verdict(audit.id, workspace_id, rank, said, rank=rank))
        # Not among the flagged ones.
        session.add(verdict(audit.id, workspace_id, 90, "rejected", rank=90))
    with engine.connect() as connection:

        def rows(query: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in connection.execute(text(query))]

        assert sorted(rows("SELECT workspace_id, audit_id, state, samples, flagged FROM bi.audits"), key=str) == sorted(
            [
                (workspace_id, audit.id, "succeeded", 120, 21),
                (other_workspace_id, other.id, "succeeded", 80, 4),
                (workspace_id, waiting.id, "queued", None, None),
            ],
            key=str,
        )
        counted = "SELECT workspace_id, audit_id, count(*), sum(flagged::int) FROM bi.findings GROUP BY 1, 2"
        assert sorted(rows(counted)) == sorted(
            [(workspace_id, audit.id, 120, 21), (other_workspace_id, other.id, 80, 4)]
        )
        assert rows("SELECT workspace_id, count(*) FROM bi.verdicts GROUP BY 1") == [(workspace_id, 5)]
        daily = "SELECT workspace_id, audits, samples_scored, flagged, flag_rate FROM bi.daily_flag_rate"
        assert sorted(rows(daily)) == sorted(
            [(workspace_id, 1, 120, 21, 21 / 120), (other_workspace_id, 1, 80, 4, 4 / 80)]
        )
        precision = (
            'SELECT audit_id, flagged, reviewed, confirmed, rejected, unsure, "precision" FROM bi.review_precision'
        )
        assert sorted(rows(precision), key=str) == sorted(
            [(audit.id, 21, 4, 2, 1, 1, 2 / 3), (other.id, 4, 0, 0, 0, 0, None)], key=str
        )


def test_a_login_without_the_right_to_make_roles_can_migrate(postgres_url: str) -> None:
    """The schema is made; the role is left to an administrator."""
    source = (DOCUMENT.parents[1] / "migrations" / "versions" / "0005_reviews.py").read_text()
    statement = source.split('CREATE_ROLE = """', 1)[1].split('"""', 1)[0].replace("finetooth_bi", "finetooth_bi_test")
    address = postgres_url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE ROLE test_plain NOLOGIN")
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("CREATE SCHEMA bi")
                connection.execute("SET LOCAL ROLE test_plain")
                connection.execute(statement)
                found = connection.execute("SELECT FROM pg_roles WHERE rolname = 'finetooth_bi_test'").fetchall()
                assert not found
        finally:
            connection.execute("DROP ROLE test_plain")
