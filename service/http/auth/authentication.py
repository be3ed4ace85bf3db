"""Authentication by a bearer key, or by the cookie of a browser that signed in with a key or as a person."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import (
    ColumnElement,
    Double,
    LargeBinary,
    Row,
    SQLColumnExpression,
    and_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.http.auth.key_format import digest, is_well_formed
from service.http.auth.principal_cache import Principals
from service.http.auth.trusted_proxy import TRUSTED_PROXY, proxied_user
from service.http.problems.problem import Problem
from service.http.transactions import Transactions
from service.principal import Principal
from service.roles import ROLES, Scope
from service.store.seed import DEFAULT_WORKSPACE
from service.store.tables import ApiKey, BrowserSession, Membership, User, Workspace

COOKIE = "finetooth_session"
"""The name of the cookie that holds a browser session."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, so that requests with a cookie need no proof that our own page sent them."""

LAST_USED_RESOLUTION = timedelta(minutes=1)
"""How exactly `last_used_at` is kept: a key is used many times a minute, and each time would be a write."""

_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: `Authorization: Bearer ft_...`.")
_COOKIE = APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="session", description="A signed-in browser.")


class RequireScope:
    """A dependency that returns the Principal, or answers 401, or 403 without the scope.

    It reads headers alone, so that an upload's body is not touched before its sender is known.
    """

    def __init__(self, scope: Scope | None = None, *, installation: bool = False) -> None:
        """Say what the principal must be allowed to do.

        Args:
            scope: The scope; None: any valid key or session.
            installation: Whether only admins of the workspace that the installation started with are let in.
        """
        self.scope = scope
        self.installation = installation

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
        _cookie: Annotated[str | None, Security(_COOKIE)] = None,
    ) -> Principal:
        """Authenticate the request and check the scope; the other parameters declare both ways in OpenAPI."""
        principal = await authenticate(request)
        if self.scope is not None and not principal.may(self.scope):
            raise Problem(403, "scope_missing", _lacks(principal, self.scope))
        if self.installation:
            principal.require_installation_admin()
        return principal


async def authenticate(request: Request) -> Principal:
    """Return the request's principal, which is looked up once a request.

    Args:
        request: The request; only its headers are read.

    Raises:
        Problem: 401 `unauthenticated`, `key_malformed`, `key_invalid`, `key_expired` or `session_ended`; 403
            `cross_site` if another site's page makes a browser change something.
    """
    known = getattr(request.state, "principal", None)
    if isinstance(known, Principal):
        return known
    authorization = request.headers.get("authorization")
    cookie = request.cookies.get(COOKIE)
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not is_well_formed(secret):
            raise _unauthenticated(
                "key_malformed", "Send `Authorization: Bearer ft_...` with a whole key: this one is cut or mistyped."
            )
        principal = await _look_up(request, digest(secret), _by_key)
    elif cookie:
        if request.method not in SAFE_METHODS:
            refuse_cross_site(request)
        principal = await _look_up(request, digest(cookie), _by_cookie)
        # After signing out at the proxy, or in as somebody else, the browser is no longer that person's.
        if principal.proxy_user is not None and principal.proxy_user != proxied_user(request):
            raise _session_ended()
    else:
        raise _unauthenticated(
            "unauthenticated",
            "Send a key as `Authorization: Bearer ft_...`, or sign in with a link that `finetooth sign-in` prints.",
        )
    request.state.principal = principal
    return principal


async def authenticate_again(request: Request) -> Principal:
    """Authenticate by what the database says now, for answers that take long; else like `authenticate`."""
    request.state.principal = None
    request.state.ask_again = True
    return await authenticate(request)


def refuse_cross_site(request: Request) -> None:
    """Refuse a browser's request that a page of another site has sent.

    Args:
        request: The request; Sec-Fetch-Site decides, or Origin in browsers without it.

    Raises:
        Problem: 403 `cross_site`.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        ours = site in {"same-origin", "none"}
    else:
        ours = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not ours:
        raise Problem(403, "cross_site", "A page of another site sent this request. Nothing was done.")


Found = tuple[Principal, float | None]
"""The principal, and for how many seconds the secret is valid; None: without end."""


async def _look_up(request: Request, hashed: bytes, find: Callable[[Session, bytes], Found]) -> Principal:
    """Find the principal of a secret: for reads also in what was found a moment ago, for changes in the database."""
    principals: Principals = request.app.state.principals
    transactions: Transactions = request.app.state.authentication
    if request.method in SAFE_METHODS and not getattr(request.state, "ask_again", False):
        known = principals.find(hashed)
        if known is not None:
            return known
    question = principals.ask()
    principal, ends_in = await transactions.autocommit(lambda session: find(session, hashed))
    principals.keep(hashed, principal, question, ends_in)
    return principal


_KEY = ApiKey.__table__.c
_HASHED = bindparam("hashed", type_=LargeBinary)
_NOT_DELETED = Workspace.__table__.c.deletion_requested_at.is_(None)
"""Its keys are revoked and its people removed; but one may be added by a request that was on its way."""


def _stale(used_at: SQLColumnExpression[datetime | None]) -> ColumnElement[bool]:
    # At most once a minute: a write for every read would cost more than the exact time is worth.
    return or_(used_at.is_(None), used_at < func.now() - LAST_USED_RESOLUTION)


def _seconds_until(end: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(func.extract("epoch", end - func.clock_timestamp()), Double)


# Built once: building these takes longer than running them.
_BY_KEY = (
    select(
        _KEY.id,
        _KEY.workspace_id,
        _KEY.scopes,
        Workspace.__table__.c.name.label("workspace_name"),
        (_KEY.secret_sha256 == _HASHED).label("is_current"),
        (_KEY.expires_at <= func.now()).label("expired"),
        _stale(case((_KEY.secret_sha256 == _HASHED, _KEY.last_used_at), else_=_KEY.previous_last_used_at)).label(
            "stale"
        ),
        _seconds_until(
            func.least(_KEY.expires_at, case((_KEY.secret_sha256 == _HASHED, None), else_=_KEY.previous_expires_at))
        ).label("ends_in"),
    )
    .join_from(ApiKey.__table__, Workspace.__table__, Workspace.__table__.c.id == _KEY.workspace_id)
    .where(
        or_(
            _KEY.secret_sha256 == _HASHED,
            and_(_KEY.previous_sha256 == _HASHED, _KEY.previous_expires_at > func.now()),
        ),
        _KEY.revoked_at.is_(None),
        _NOT_DELETED,
    )
)

_COOKIES = BrowserSession.__table__.c
_USER = User.__table__.c
_MEMBER = Membership.__table__.c
_BY_COOKIE = (
    select(
        _KEY.id,
        _COOKIES.workspace_id,
        _KEY.scopes,
        _USER.id.label("user_id"),
        User.shown_name.label("user_name"),
        case((_USER.issuer == TRUSTED_PROXY, _USER.subject)).label("proxy_user"),
        _MEMBER.role,
        Workspace.__table__.c.name.label("workspace_name"),
        and_(_KEY.id.is_not(None), _stale(_KEY.last_used_at)).label("stale"),
        _stale(_COOKIES.last_used_at).label("browser_stale"),
        _seconds_until(func.least(_KEY.expires_at, _COOKIES.expires_at)).label("ends_in"),
    )
    .select_from(BrowserSession.__table__)
    .join(Workspace.__table__, Workspace.__table__.c.id == _COOKIES.workspace_id)
    .outerjoin(
        ApiKey.__table__,
        and_(
            _KEY.id == _COOKIES.key_id,
            _KEY.revoked_at.is_(None),
            or_(_KEY.expires_at.is_(None), _KEY.expires_at > func.now()),
        ),
    )
    .outerjoin(User.__table__, and_(_USER.id == _COOKIES.user_id, _USER.disabled_at.is_(None)))
    .outerjoin(Membership.__table__, and_(_MEMBER.user_id == _USER.id, _MEMBER.workspace_id == _COOKIES.workspace_id))
    .where(
        _COOKIES.token_sha256 == _HASHED,
        _COOKIES.expires_at > func.now(),
        _NOT_DELETED,
        or_(_KEY.id.is_not(None), _MEMBER.id.is_not(None)),
    )
)


def _by_key(session: Session, hashed: bytes) -> Found:
    found = session.connection().execute(_BY_KEY, {"hashed": hashed}).one_or_none()
    if found is None:
        raise _unauthenticated("key_invalid", "This key is unknown, replaced or revoked. Ask an admin for a new one.")
    if found.expired:
        raise _unauthenticated("key_expired", "This key has expired. Ask an admin for a new one.")
    if found.stale:
        _note_use(session, found.id, ApiKey.last_used_at if found.is_current else ApiKey.previous_last_used_at)
    return _principal(found), found.ends_in


def _by_cookie(session: Session, hashed: bytes) -> Found:
    found = session.connection().execute(_BY_COOKIE, {"hashed": hashed}).one_or_none()
    if found is None:
        raise _session_ended()
    if found.stale:
        _note_use(session, found.id, ApiKey.last_used_at)
    if found.browser_stale:
        used_at = BrowserSession.last_used_at
        own = BrowserSession.token_sha256 == hashed
        session.execute(update(BrowserSession).where(own, _stale(used_at)).values({used_at: func.now()}))
    return _principal(found) if found.id is not None else _person(found), found.ends_in


def _note_use(session: Session, key_id: str, used_at: InstrumentedAttribute[datetime | None]) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id, _stale(used_at)).values({used_at: func.now()}))


def _principal(found: Row[Any]) -> Principal:
    return Principal(
        workspace_id=found.workspace_id,
        key_id=found.id,
        scopes=frozenset(found.scopes),
        in_first_workspace=found.workspace_name == DEFAULT_WORKSPACE,
        workspace_name=found.workspace_name,
    )


def _person(found: Row[Any]) -> Principal:
    return Principal(
        workspace_id=found.workspace_id,
        key_id=None,
        scopes=ROLES[found.role],
        in_first_workspace=found.workspace_name == DEFAULT_WORKSPACE,
        user_id=found.user_id,
        user_name=found.user_name,
        workspace_name=found.workspace_name,
        proxy_user=found.proxy_user,
    )


def _lacks(principal: Principal, scope: Scope) -> str:
    if principal.user_id is None:
        return f"This key lacks the scope {scope}. Use a key that has it."
    return f"Your role in this workspace lacks the scope {scope}. Ask an admin of the workspace for one that has it."


def _session_ended() -> Problem:
    return _unauthenticated("session_ended", "You are signed out. Sign in again.")


def _unauthenticated(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": "Bearer"})
