"""Who is asking: a bearer key, or the cookie of a browser that signed in with one."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from service.http.problems import Problem
from service.http.tokens import digest, is_well_formed
from service.http.transactions import Transactions
from service.store.tables import ApiKey, BrowserSession

Scope = Literal["datasets:write", "audits:write", "findings:read", "verdicts:write", "admin"]
"""What a key may do beside reading datasets, probes, models and audits. `admin` implies all."""

COOKIE = "finetooth_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LAST_USED_RESOLUTION = timedelta(minutes=1)

_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: `Authorization: Bearer ft_...`.")
_COOKIE = APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="session", description="A signed-in browser.")


@dataclass(frozen=True)
class Principal:
    """Who is asking, and what they may do."""

    workspace_id: str
    key_id: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope, or `admin`."""
        return scope in self.scopes or "admin" in self.scopes


class require:  # noqa: N801  # reads as a verb where it is used: Depends(require("admin"))
    """A dependency that gives the Principal, or answers 401, or 403 for a key without `scope` (None: any valid key).

    It reads headers alone, so that an upload's body is not touched before its sender is known.
    """

    def __init__(self, scope: Scope | None = None) -> None:
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
        _cookie: Annotated[str | None, Security(_COOKIE)] = None,
    ) -> Principal:
        principal = await authenticate(request)
        if self.scope is not None and not principal.may(self.scope):
            raise Problem(403, "scope_missing", f"This key lacks the scope {self.scope}. Use a key that has it.")
        return principal


async def authenticate(request: Request) -> Principal:
    """The request's principal, looked up once a request. Raises Problem 401, or 403 for a cross-site browser."""
    known = getattr(request.state, "principal", None)
    if isinstance(known, Principal):
        return known
    transactions: Transactions = request.app.state.authentication
    authorization = request.headers.get("authorization")
    cookie = request.cookies.get(COOKIE)
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not is_well_formed(secret):
            raise _unauthenticated(
                "key_malformed", "Send `Authorization: Bearer ft_...` with a whole key: this one is cut or mistyped."
            )
        principal = await transactions.run(lambda session: _by_key(session, secret))
    elif cookie:
        if request.method not in SAFE_METHODS:
            refuse_cross_site(request)
        principal = await transactions.run(lambda session: _by_cookie(session, cookie))
    else:
        raise _unauthenticated(
            "unauthenticated",
            "Send a key as `Authorization: Bearer ft_...`, or sign in with the link that `finetooth up` prints.",
        )
    request.state.principal = principal
    return principal


async def authenticate_again(request: Request) -> Principal:
    """Like `authenticate`, by what the database says now: for answers that take long."""
    request.state.principal = None
    return await authenticate(request)


def refuse_cross_site(request: Request) -> None:
    """Raises Problem 403 unless the browser says that a page of ours sent the request."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        ours = site in {"same-origin", "none"}
    else:
        ours = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not ours:
        raise Problem(403, "cross_site", "A page of another site sent this request with your cookie. Nothing was done.")


def _by_key(session: Session, secret: str) -> Principal:
    query = select(ApiKey, (ApiKey.expires_at <= func.now()).label("expired"), _stale()).where(
        ApiKey.secret_sha256 == digest(secret), ApiKey.revoked_at.is_(None)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise _unauthenticated("key_invalid", "This key is unknown or revoked. Ask an admin for a new one.")
    key, expired, stale = found
    if expired:
        raise _unauthenticated("key_expired", "This key has expired. Ask an admin for a new one.")
    return _principal(session, key, stale)


def _by_cookie(session: Session, cookie: str) -> Principal:
    query = (
        select(ApiKey, _stale())
        .join(BrowserSession, BrowserSession.key_id == ApiKey.id)
        .where(
            BrowserSession.token_sha256 == digest(cookie),
            BrowserSession.expires_at > func.now(),
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise _unauthenticated("session_ended", "You are signed out. Sign in with a new link.")
    return _principal(session, *found)


def _stale():  # type: ignore[no-untyped-def]
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - LAST_USED_RESOLUTION)


def _principal(session: Session, key: ApiKey, stale: bool) -> Principal:
    principal = Principal(workspace_id=key.workspace_id, key_id=key.id, scopes=frozenset(key.scopes))
    if stale:
        # At most once a minute: a write for every read would cost more than it tells.
        session.execute(update(ApiKey).where(ApiKey.id == key.id, _stale()).values(last_used_at=func.now()))
    return principal


def _unauthenticated(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": "Bearer"})
