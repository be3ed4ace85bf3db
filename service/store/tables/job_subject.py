"""What the rows of audits and exports have in common: each is what a job is about."""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column


class JobSubject:
    """Columns of a row that a job is about: who asked for it, and how far it is."""

    key_id: Mapped[str | None]
    """The key that asked for it; None for a person, and where that was not recorded yet."""
    user_id: Mapped[str | None]
    """The person who asked for it; None for a key."""
    progress_done: Mapped[int | None] = mapped_column(BigInteger)
    progress_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_unit: Mapped[str | None]
    """What the two count, in the plural."""
    eta_at: Mapped[datetime | None]
    progressed_at: Mapped[datetime | None]
    """When it last moved on."""
