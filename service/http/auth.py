"""Who is asking: a bearer key, or the cookie of a browser that signed in with one."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import ColumnElement, SQLColumnExpression, and_, case, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.http.problems import Problem
from service.http.tokens import digest, is_well_formed
from service.http.transactions import Transactions
from service.store.bootstrap import DEFAULT_WORKSPACE
from service.store.tables import ApiKey, BrowserSession, Workspace

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
    in_first_workspace: bool = False
    """Whether the workspace is the one that the installation started with."""

    @property
    def administers_installation(self) -> bool:
        """Whether it may do what concerns more than one workspace, or the server's own files."""
        return self.in_first_workspace and self.may("admin")

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope, or `admin`."""
        return scope in self.scopes or "admin" in self.scopes


class require:  # noqa: N801  # reads as a verb where it is used: Depends(require("admin"))
    """A dependency that gives the Principal, or answers 401, or 403 for a key without `scope` (None: any valid key).

    installation: only for admins of the workspace that the installation started with.

    It reads headers alone, so that an upload's body is not touched before its sender is known.
    """

    def __init__(self, scope: Scope | None = None, *, installation: bool = False) -> None:
        self.scope = scope
        self.installation = installation

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
        _cookie: Annotated[str | None, Security(_COOKIE)] = None,
    ) -> Principal:
        principal = await authenticate(request)
        if self.scope is not None and not principal.may(self.scope):
            raise Problem(403, "scope_missing", f"This key lacks the scope {self.scope}. Use a key that has it.")
        if self.installation and not principal.administers_installation:
            raise not_installation_admin()
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


def not_installation_admin() -> Problem:
    """What an admin of another workspace than the first is answered."""
    return Problem(
        403, "installation_admin_only", "Only an admin key of the installation's first workspace may do this."
    )


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
    hashed = digest(secret)
    used_at = case((ApiKey.secret_sha256 == hashed, ApiKey.last_used_at), else_=ApiKey.previous_last_used_at)
    query = (
        select(ApiKey, Workspace.name, (ApiKey.expires_at <= func.now()).label("expired"), _stale(used_at))
        .join(Workspace, Workspace.id == ApiKey.workspace_id)
        .where(
            or_(
                ApiKey.secret_sha256 == hashed,
                and_(ApiKey.previous_sha256 == hashed, ApiKey.previous_expires_at > func.now()),
            ),
            ApiKey.revoked_at.is_(None),
        )
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise _unauthenticated("key_invalid", "This key is unknown, replaced or revoked. Ask an admin for a new one.")
    key, workspace_name, expired, stale = found
    if expired:
        raise _unauthenticated("key_expired", "This key has expired. Ask an admin for a new one.")
    if stale:
        _note_use(session, key, ApiKey.last_used_at if key.secret_sha256 == hashed else ApiKey.previous_last_used_at)
    return _principal(key, workspace_name)


def _by_cookie(session: Session, cookie: str) -> Principal:
    query = (
        select(ApiKey, Workspace.name, _stale(ApiKey.last_used_at))
        .join(BrowserSession, BrowserSession.key_id == ApiKey.id)
        .join(Workspace, Workspace.id == ApiKey.workspace_id)
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
    key, workspace_name, stale = found
    if stale:
        _note_use(session, key, ApiKey.last_used_at)
    return _principal(key, workspace_name)


def _stale(used_at: SQLColumnExpression[datetime | None]) -> ColumnElement[bool]:
    # At most once a minute: a write for every read would cost more than it tells.
    return or_(used_at.is_(None), used_at < func.now() - LAST_USED_RESOLUTION)


def _note_use(session: Session, key: ApiKey, used_at: InstrumentedAttribute[datetime | None]) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key.id, _stale(used_at)).values({used_at: func.now()}))


def _principal(key: ApiKey, workspace_name: str) -> Principal:
    return Principal(
        workspace_id=key.workspace_id,
        key_id=key.id,
        scopes=frozenset(key.scopes),
        in_first_workspace=workspace_name == DEFAULT_WORKSPACE,
    )


def _unauthenticated(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": "Bearer"})
