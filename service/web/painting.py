"""Drawing charts without blocking the database or the threads of others: a few at a time, and each chart once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from service.http.transactions import Transactions

PAINTERS = 2
"""Pictures that are drawn at a time: each takes up to a second of a processor."""

KEPT = 256
"""Pictures that are kept, of 10 to 60 kB each."""

T = TypeVar("T")

_painters = CapacityLimiter(PAINTERS)
_pictures: OrderedDict[Hashable, str] = OrderedDict()


async def paint(draw: Callable[[T], str], what: T) -> str:
    """Draw in a painter's thread.

    Args:
        draw: Makes the picture or document.
        what: All that it needs.
    """
    return await run_sync(draw, what, limiter=_painters)


async def paint_once(
    transactions: Transactions,
    *,
    key: Callable[[Session], Hashable | None],
    read: Callable[[Session], T],
    draw: Callable[[T], str],
) -> str:
    """Draw what the database holds, or send the picture that was drawn of the same thing before.

    Args:
        transactions: Where it is read; the session has ended before anything is drawn.
        key: Says what the picture shows and which one it is, once it is known that the reader may see it; what a key
            stands for never changes. None: it is drawn each time.
        read: What to draw.
        draw: Makes the picture, from nothing but that.
    """

    def look(session: Session) -> tuple[Hashable | None, str | None, T | None]:
        known = key(session)
        picture = _pictures.get(known) if known is not None else None
        return known, picture, read(session) if picture is None else None

    known, picture, what = await transactions.run(look)
    if picture is None:
        picture = await paint(draw, what)  # type: ignore[arg-type]  # it was read where there is no picture
        if known is not None:
            _pictures[known] = picture
            while len(_pictures) > KEPT:
                _pictures.popitem(last=False)
    return picture
