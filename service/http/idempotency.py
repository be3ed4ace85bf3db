"""`Idempotency-Key`: a creating POST that is sent again because its answer was lost creates nothing twice.

A route whose handler is a `def` on SessionDep uses it with `dependencies=[IDEMPOTENT]`; AuthenticatedRoute does the
rest and records the answer in the transaction that creates the resource. A route that streams its body takes
`StreamedKeyDep` instead, and itself calls `earlier` and `record`.

Answers below 400 are recorded, for RECORD_HOURS; after a refusal or a failure the same request is tried again. A key
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
"""The header by which a client marks a request that it may send again."""

REPLAYED = "Idempotency-Replayed"
"""The header of an answer that was recorded earlier."""

RECORD_HOURS = 24
"""How long an answer is recorded."""

MAX_KEY_LENGTH = 255
"""The most characters of a key."""

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
    """A dependency that marks a route. Fields named in `forget` are recorded as null: secrets that are shown once."""

    def __init__(self, *, forget: tuple[str, ...] = ()) -> None:
        """Name the fields that are recorded as null."""
        self.forget = forget

    async def __call__(self, _key: _KeyHeader = None) -> None:
        """Do nothing: the route's class reads the header, which is declared here for the OpenAPI document."""


IDEMPOTENT = Depends(Idempotent())
"""Marks routes whose answers are recorded as they are."""

FORGETFUL = Depends(Idempotent(forget=("secret",)))
"""Marks routes that answer with a key's text, which is not recorded."""


class AnsweredAlreadyError(Exception):
    """Another request with the same key has been answered meanwhile; this one must be rolled back."""

    def __init__(self, earlier: "Earlier", body_sha256: bytes) -> None:
        """Keep the other request's answer.

        Args:
            earlier: The recorded answer.
            body_sha256: SHA-256 of the body of the request that comes second.
        """
        super().__init__()
        self._earlier = earlier
        self._body_sha256 = body_sha256

    def answer(self) -> Response:
        """Return the other request's answer. Raises Problem 422 `idempotency_key_reused` if its body was another."""
        return self._earlier.answer(self._body_sha256)


@dataclass(frozen=True)
class Asked:
    """A request with a key: who sent it, and to which address."""

    workspace_id: str
    actor_id: str
    """The id of the API key or the person that sent the request."""
    key: str
    target_sha256: bytes
    """SHA-256 of the method, the path and the query."""


@dataclass(frozen=True)
class Earlier:
    """The recorded answer to the first request under a key."""

    body_sha256: bytes
    """SHA-256 of the first request's body."""
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    """The answer's body."""

    def answer(self, body_sha256: bytes) -> Response:
        """Return the recorded answer again.

        Args:
            body_sha256: SHA-256 of the body of the request that comes now.

        Raises:
            Problem: 422 `idempotency_key_reused` if the first request had another body.
        """
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
    """The key of a request whose body is known only at its end. Without the header its methods do nothing.

    `earlier` costs a look-up and comes before the body; `record` runs in the transaction that creates the resource. Of
    two requests at once both may come to `record`, where the second one fails.
    """

    def __init__(self, asked: Asked | None) -> None:
        """Keep the request and its key; None without the header."""
        self._asked = asked

    async def earlier(self, transactions: Transactions, settings: Settings) -> Earlier | None:
        """Find the answer that was given under the key.

        Args:
            transactions: Runs the look-up.
            settings: The quotas of recorded answers.

        Returns:
            The answer; None if there is none yet, or no key.

        Raises:
            Problem: 422 `idempotency_key_reused`: the key came with another method or address.
            ConflictError: `idempotency_quota`: there is no answer, and no more may be recorded.
        """
        asked = self._asked
        if asked is None:
            return None
        return await transactions.run(lambda session: _find_or_begin(session, asked, settings))

    def record(self, session: Session, body_sha256: bytes, response: Response) -> None:
        """Record the answer under the key.

        Args:
            session: The transaction that creates the resource.
            body_sha256: SHA-256 of the request's body.
            response: The answer.

        Raises:
            AnsweredAlreadyError: Another request was faster: roll back, and return its answer.
            Problem: 409 `idempotency_key_in_use`: another was, and its record has expired meanwhile.
        """
        if self._asked is None or record_answer(session, self._asked, body_sha256, response):
            return
        earlier = find_earlier(session, self._asked)
        if earlier is None:  # it ran out in between
            raise _in_use()
        raise AnsweredAlreadyError(earlier, body_sha256)


async def streamed_key(request: Request, _key: _KeyHeader = None) -> StreamedKey:
    """Return the Idempotency-Key of a request that streams its body.

    Args:
        request: The request, which is authenticated.

    Raises:
        Problem: 401 or 403 as for `authenticate`; 422 `invalid_request` if the header is malformed.
    """
    return StreamedKey(asked_under_key(request, await authenticate(request)))


StreamedKeyDep = Annotated[StreamedKey, Depends(streamed_key)]


async def answer_once(
    request: Request,
    principal: Principal,
    handle: Callable[[Request], Awaitable[Response]],
    forget: tuple[str, ...],
) -> Response:
    """Handle a request, or return the answer that was recorded under its key.

    Args:
        request: The request with its whole body.
        principal: Who sends it.
        handle: The route's handler, which finds its session in `request.state`.
        forget: Fields of the answer that are recorded as null.

    Returns:
        The handler's answer, or the recorded one.

    Raises:
        Problem: 422 `idempotency_key_reused`; 409 `idempotency_key_in_use` while the first request is being handled;
            422 `invalid_request` if the header is malformed.
        ConflictError: `idempotency_quota`.
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
    """Read the Idempotency-Key of a request.

    Args:
        request: The request.
        principal: Who sends it.

    Returns:
        The request as its answer is recorded; None without the header.

    Raises:
        Problem: 422 `invalid_request` if the header is malformed or comes twice.
    """
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
    """Read the answer that was recorded under a key.

    Args:
        session: An open transaction.
        asked: The request and its key.

    Returns:
        The answer; None if there is none, or it has expired.

    Raises:
        Problem: 422 `idempotency_key_reused`: the key came with another method or address.
    """
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
    """Record an answer in the session's transaction.

    Args:
        session: The transaction that creates the resource.
        asked: The request and its key.
        body_sha256: SHA-256 of the request's body.
        response: The answer.
        forget: Fields of its JSON body that are recorded as null.

    Returns:
        False if another answer is recorded under the key already.
    """
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
    """Find the answer recorded under the key, or keep the key from others until the transaction ends."""
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
