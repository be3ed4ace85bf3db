"""An audit of known results."""

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.store.tables import Audit
from tests.support.review_data import publish_audit


@pytest.fixture
def reviewed(sessions: sessionmaker[Session], workspace_id: str) -> Audit:
    """A succeeded audit of `review_data`, of which nothing is said yet."""
    return publish_audit(sessions, workspace_id)
