"""Dependencies that routes ask for by type.

Even those that wait for nothing are `async def`: FastAPI runs a `def` in a thread, which takes longer than the
function.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from service.http.object_reads import ObjectReads
from service.http.transactions import Transactions
from service.settings import Settings
from service.store.objects import ObjectStore
from service.store.stored_rows import StoredRows


async def _session(request: Request) -> AsyncIterator[Session]:
    open_session: Session | None = getattr(request.state, "session", None)
    if open_session is not None:  # of a request with an Idempotency-Key, which ends it
        yield open_session
        return
    transactions: Transactions = request.app.state.transactions
    async with transactions.begin() as session:
        yield session


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _objects(request: Request) -> ObjectStore:
    objects: ObjectStore = request.app.state.objects
    return objects


async def _rows(request: Request) -> StoredRows:
    rows: StoredRows = request.app.state.rows
    return rows


async def _object_reads(request: Request) -> ObjectReads:
    reads: ObjectReads = request.app.state.object_reads
    return reads


async def _transactions(request: Request) -> Transactions:
    transactions: Transactions = request.app.state.transactions
    return transactions


SessionDep = Annotated[Session, Depends(_session, scope="function")]
"""The request's session, for `def` routes. Committed before the answer is sent; rolled back when the route raises."""

SettingsDep = Annotated[Settings, Depends(_settings)]
ObjectsDep = Annotated[ObjectStore, Depends(_objects)]
ObjectReadsDep = Annotated[ObjectReads, Depends(_object_reads)]
RowsDep = Annotated[StoredRows, Depends(_rows)]

TransactionsDep = Annotated[Transactions, Depends(_transactions)]
"""For `async def` routes that stream: `await transactions.run(lambda session: ...)` holds a connection only then."""
