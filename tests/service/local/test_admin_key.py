"""The admin key's file."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from service.keys.secrets import find_key_by_secret, revoke_key
from service.local.admin_key import ensure_admin_key
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace
from tests.support.local_processes import mode


@pytest.fixture
def session(database_url: str):
    engine = make_engine(database_url, application_name="test")
    with make_sessions(engine).begin() as session:
        yield session
    engine.dispose()


def test_it_is_made_once_and_replaced_when_it_no_longer_works(session: Session, tmp_path: Path) -> None:
    workspace = ensure_workspace(session)
    path = tmp_path / "admin.key"

    def ensure() -> tuple[str, str]:
        return ensure_admin_key(session, workspace_id=workspace.id, path=path)

    first = ensure()
    assert mode(path) == 0o600
    assert path.read_text() == first[1] + "\n"
    key = find_key_by_secret(session, first[1])
    assert key is not None
    assert key.scopes == ["admin"]

    path.chmod(0o644)
    assert ensure() == first
    assert mode(path) == 0o600

    path.unlink()
    second = ensure()
    assert second[1] != first[1]

    path.write_text("ft_of_another_database")
    third = ensure()
    assert third[1] not in (first[1], second[1])
    assert find_key_by_secret(session, path.read_text().strip()) is not None

    key = find_key_by_secret(session, third[1])
    assert key is not None
    revoke_key(session, key)
    session.flush()
    assert ensure()[1] != third[1]
    assert list(tmp_path.iterdir()) == [path]
