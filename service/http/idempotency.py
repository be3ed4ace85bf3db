"""`Idempotency-Key`: a creating POST that is sent again, since its answer was lost, creates nothing twice.

A route whose handler is a `def` on SessionDep adopts it with `dependencies=[IDEMPOTENT]`; AuthenticatedRoute does the
rest: the answer is recorded in the transaction that creates the resource. A route that streams its body takes
`StreamedKeyDep` instead and says itself when it looks and when it records.

Answers below 400 are recorded, for RECORD_HOURS; after a refusal or a failure the same request is tried afresh. A key
belongs to the API key or the person that sent it.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Depends, Header, Request
from sqlalchemy import Interval, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from starlette.responses import Response

from service.http.auth.authentication import authenticate
from service.http.problems.problem import Problem
from service.http.quotas import check_idempotency_records
from service.http.transactions import Transactions
from service.principal import Principal
from service.settings import Settings
from service.store.tables import IdempotencyRecord

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
RECORD_HOURS = 24
MAX_KEY_LENGTH = 255

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}")

_KeyHeader = Annotated[
    str | None,
    Header(
        alias=HEADER,
        description=f"1 to {MAX_KEY_LENGTH} visible ASCII characters of your choice, such as a UUID. The same request "
        f"sent again with it within {RECORD_HOURS} hours creates nothing and gets the same answer, with `{REPLAYED}`.",
    ),
]


class Idempotent:
    """A dependency that marks a route. Fields named in `forget` are null in what is recorded: secrets shown once."""

    def __init__(self, *, forget: tuple[str, ...] = ()) -> None:
        self.forget = forget

    async def __call__(self, _key: _KeyHeader = None) -> None:
        """Nothing: the route's class reads the header."""


IDEMPOTENT = Depends(Idempotent())

FORGETFUL = Depends(Idempotent(forget=("secret",)))
"""Of routes that answer with a key's text."""


class AnsweredAlreadyError(Exception):
    """Another request with the same key has been answered meanwhile; nothing of this one may be kept."""

    def __init__(self, earlier: "Earlier", body_sha256: bytes) -> None:
        super().__init__()
        self._earlier = earlier
        self._body_sha256 = body_sha256

    def answer(self) -> Response:
        """That request's. Raises Problem 422 `idempotency_key_reused` where its body was another."""
        return self._earlier.answer(self._body_sha256)


@dataclass(frozen=True)
class Asked:
    """Which request came under which key."""

    workspace_id: str
    actor_id: str
    """Id of the API key or the person that sent the request."""
    key: str
    target_sha256: bytes
    """Of method, path and query."""


@dataclass(frozen=True)
class Earlier:
    """The recorded answer to the request that came first under a key."""

    body_sha256: bytes
    """Of that request."""
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    """Of the answer."""

    def answer(self, body_sha256: bytes) -> Response:
        """The answer, once more. Raises Problem 422 `idempotency_key_reused` where that request had another body."""
        if body_sha256 != self.body_sha256:
            raise _reused()
        response = Response(self.body, self.status)
        response.raw_headers = [
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers),
            (b"content-length", str(len(self.body)).encode()),
            (REPLAYED.lower().encode(), b"true"),
        ]
        return response


class StreamedKey:
    """The key of a request whose body is known at its end only. Without the header its methods do nothing.

    `earlier` costs a look and comes before the body; `record` runs in the transaction that creates the resource. Of two
    requests at once, both may come to `record`, and the second one is told there.
    """

    def __init__(self, asked: Asked | None) -> None:
        self._asked = asked

    async def earlier(self, transactions: Transactions, settings: Settings) -> Earlier | None:
        """What was answered under the key, if anything.

        Args:
            transactions: For a look at the records.
            settings: Say how many there may be.

        Raises:
            Problem: 422 `idempotency_key_reused`: it was another method or address.
            ConflictError: `idempotency_quota`: nothing was, and no more answers are kept.
        """
        asked = self._asked
        if asked is None:
            return None
        return await transactions.run(lambda session: _find_or_begin(session, asked, settings))

    def record(self, session: Session, body_sha256: bytes, response: Response) -> None:
        """Keeps the answer. Raises AnsweredAlreadyError: roll back, and give the earlier answer."""
        if self._asked is None or record_answer(session, self._asked, body_sha256, response):
            return
        earlier = find_earlier(session, self._asked)
        if earlier is None:  # it ran out in between
            raise _in_use()
        raise AnsweredAlreadyError(earlier, body_sha256)


async def streamed_key(request: Request, _key: _KeyHeader = None) -> StreamedKey:
    """The request's."""
    return StreamedKey(asked_under_key(request, await authenticate(request)))


StreamedKeyDep = Annotated[StreamedKey, Depends(streamed_key)]


async def answer_once(
    request: Request,
    principal: Principal,
    handle: Callable[[Request], Awaitable[Response]],
    forget: tuple[str, ...],
) -> Response:
    """Handles the request, or gives the answer that it got before. `handle` finds its session in request.state.

    Raises Problem 422 `idempotency_key_reused`, 409 `idempotency_key_in_use` while the first one is being handled, and
    ConflictError `idempotency_quota`.
    """
    asked = asked_under_key(request, principal)
    if asked is None:
        return await handle(request)
    body_sha256 = hashlib.sha256(await request.body()).digest()
    transactions: Transactions = request.app.state.transactions
    async with transactions.begin() as session:
        earlier = await run_sync(_take_key, session, asked, request.app.state.settings)
        if earlier is not None:
            return earlier.answer(body_sha256)
        request.state.session = session
        response = await handle(request)
        if response.status_code < 400:
            kept = await run_sync(record_answer, session, asked, body_sha256, response, forget)
            if not kept:
                raise _in_use()
    return response


def asked_under_key(request: Request, principal: Principal) -> Asked | None:
    """None without the header. Raises Problem 422 where it is no key."""
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        detail = f"{HEADER} is 1 to {MAX_KEY_LENGTH} visible ASCII characters, sent once."
        pointer = {"pointer": f"header:{HEADER.lower()}", "detail": detail}
        raise Problem(422, "invalid_request", detail, errors=[pointer])
    target = json.dumps([request.method, request.url.path, request.url.query])
    return Asked(
        workspace_id=principal.workspace_id,
        actor_id=principal.actor_id,
        key=given[0],
        target_sha256=hashlib.sha256(target.encode("utf-8", "surrogatepass")).digest(),
    )


def find_earlier(session: Session, asked: Asked) -> Earlier | None:
    """What was answered under the key, if anything. Raises Problem 422 where it was another method or address."""
    record = session.scalars(
        select(IdempotencyRecord).where(
            IdempotencyRecord.workspace_id == asked.workspace_id,
            IdempotencyRecord.actor_id == asked.actor_id,
            IdempotencyRecord.key == asked.key,
            IdempotencyRecord.expires_at > func.now(),
        )
    ).one_or_none()
    if record is None:
        return None
    if record.target_sha256 != asked.target_sha256:
        raise _reused()
    return Earlier(record.body_sha256, record.status, [(name, value) for name, value in record.headers], record.body)


def record_answer(
    session: Session, asked: Asked, body_sha256: bytes, response: Response, forget: tuple[str, ...] = ()
) -> bool:
    """Keeps the answer in the session's transaction. False: there is one under the key already."""
    values: dict[str, Any] = {
        "target_sha256": asked.target_sha256,
        "body_sha256": body_sha256,
        "status": response.status_code,
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in response.raw_headers
            if name != b"content-length"
        ],
        "body": _without(bytes(response.body), forget),
        "created_at": func.now(),
        "expires_at": func.now() + literal(timedelta(hours=RECORD_HOURS), Interval()),
    }
    kept = session.scalar(
        insert(IdempotencyRecord)
        .values(workspace_id=asked.workspace_id, actor_id=asked.actor_id, key=asked.key, **values)
        .on_conflict_do_update(
            index_elements=["workspace_id", "actor_id", "key"],
            set_=values,
            where=IdempotencyRecord.expires_at <= func.now(),
        )
        .returning(IdempotencyRecord.key)
    )
    return kept is not None


def _take_key(session: Session, asked: Asked, settings: Settings) -> Earlier | None:
    """What was answered under the key; if nothing was, nobody else gets it until the transaction ends, or waits."""
    name = "\n".join((asked.workspace_id, asked.actor_id, asked.key))
    if not session.scalar(text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}):
        raise _in_use()
    return _find_or_begin(session, asked, settings)


def _find_or_begin(session: Session, asked: Asked, settings: Settings) -> Earlier | None:
    earlier = find_earlier(session, asked)
    if earlier is None:
        check_idempotency_records(session, asked.workspace_id, settings)
    return earlier


def _without(body: bytes, fields: tuple[str, ...]) -> bytes:
    if not fields:
        return body
    document = json.loads(body) | dict.fromkeys(fields)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _reused() -> Problem:
    detail = "This Idempotency-Key came with another request before. Use a new key for a new request."
    return Problem(422, "idempotency_key_reused", detail)


def _in_use() -> Problem:
    detail = "A request with this Idempotency-Key is being handled just now. Send yours again in a moment."
    return Problem(409, "idempotency_key_in_use", detail, headers={"Retry-After": "1"})
