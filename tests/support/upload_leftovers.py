"""What must not be there after an upload that failed."""

from contextlib import suppress

import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from service.store.tables import Dataset


def assert_nothing_left(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """No row, no object, no unfinished file and no child."""
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 0
    assert [path for path in settings.data_dir.rglob("*") if path.is_file()] == []
    assert list(settings.objects.glob("*/datasets/*")) == []
    assert [child for child in psutil.Process().children() if _is_parser(child)] == []


def _is_parser(child: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # ended meanwhile, or long ago by an earlier test that did not wait for it
        return "service.datasets.parsing.parser" in child.cmdline()
    return False
