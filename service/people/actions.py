"""Changing people: giving, changing and taking roles, disabling people, and switching workspaces."""

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.errors import ConflictError, NotFoundError
from service.http.audit_log import record
from service.http.auth.principal_cache import rights_changed
from service.keys.secrets import sign_out
from service.people.queries import find_user
from service.people.schemas import User, UserAdd, render_user
from service.principal import Principal
from service.roles import Role
from service.scoping import owned
from service.store.ids import new_id
from service.store.tables import BrowserSession, Membership, Workspace
from service.store.tables import User as UserTable


def add(session: Session, principal: Principal, body: UserAdd) -> User:
    """Give a person a role in the workspace, whether or not they have signed in before.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The person's e-mail and role.

    Raises:
        ConflictError: `user_is_member`.
    """
    user = _known_by(session, body.email) or _invited(session, body.email)
    if not _join(session, principal, user.id, body.role):
        raise ConflictError("user_is_member", "This person is in the workspace already. Change their role instead.")
    return render_user(find_user(session, principal, user.id))


def change_role(session: Session, principal: Principal, user_id: str, role: Role) -> User:
    """Give a person another role in the workspace; their browsers have it within a second.

    Args:
        session: An open transaction.
        principal: Who is asking.
        user_id: Which person.
        role: What they are from now on, whatever their groups say.

    Raises:
        NotFoundError: `user_not_found`.
        ConflictError: `own_role`.
    """
    _, membership = find_user(session, principal, user_id)
    _refuse_own(principal, user_id)
    if membership is None:
        _join(session, principal, user_id, role)
    else:
        rights_changed(session)
        membership.role, membership.given_by = role, "admin"
        session.flush()
        record(session, principal, "member.change", f"{user_id}/{role}")
    return render_user(find_user(session, principal, user_id))


def remove(session: Session, principal: Principal, user_id: str) -> None:
    """Take a person's role in the workspace, and sign their browsers out of it.

    Args:
        session: An open transaction.
        principal: Who is asking.
        user_id: Which person.

    Raises:
        NotFoundError: `user_not_found`: they have no role here.
        ConflictError: `own_role`.
    """
    user, membership = find_user(session, principal, user_id)
    if membership is None:
        raise NotFoundError("user")
    _refuse_own(principal, user_id)
    session.delete(membership)
    sign_out(session, owned(BrowserSession, principal) & (BrowserSession.user_id == user_id))
    session.flush()
    if user.subject is None:  # they are known by this invitation alone
        others = exists().where(Membership.user_id == user_id)
        session.execute(delete(UserTable).where(UserTable.id == user_id, ~others))
    record(session, principal, "member.remove", user_id)


def disable(session: Session, principal: Principal, user_id: str) -> User:
    """Disable a person in every workspace, and sign their browsers out. Idempotent.

    Args:
        session: An open transaction.
        principal: Who is asking; administers the installation.
        user_id: Which person.

    Raises:
        ForbiddenError: `installation_admin_only`.
        NotFoundError: `user_not_found`.
        ConflictError: `own_role`.
    """
    user, _ = find_user(session, principal, user_id)
    principal.require_installation_admin()
    _refuse_own(principal, user_id)
    if user.disabled_at is None:
        user.disabled_at = func.now()
    sign_out(session, BrowserSession.user_id == user_id)
    session.flush()
    record(session, principal, "user.disable", user_id)
    return render_user(find_user(session, principal, user_id))


def enable(session: Session, principal: Principal, user_id: str) -> User:
    """Enable a person again, with the roles that they have. Idempotent.

    Args:
        session: An open transaction.
        principal: Who is asking; administers the installation.
        user_id: Which person.

    Raises:
        ForbiddenError: `installation_admin_only`.
        NotFoundError: `user_not_found`.
    """
    user, _ = find_user(session, principal, user_id)
    principal.require_installation_admin()
    user.disabled_at = None
    session.flush()
    record(session, principal, "user.enable", user_id)
    return render_user(find_user(session, principal, user_id))


def switch_workspace(session: Session, principal: Principal, workspace_id: str, *, cookie_sha256: bytes | None) -> None:
    """Let a signed-in person's browser work in another workspace of theirs.

    Args:
        session: An open transaction.
        principal: Who is asking.
        workspace_id: Where they want to work.
        cookie_sha256: SHA-256 of the browser's cookie.

    Raises:
        NotFoundError: `workspace_not_found`: the person has no role there; and keys belong to one workspace.
    """
    theirs = select(Workspace.id).join(Membership).where(Membership.user_id == principal.user_id)
    wanted = session.scalar(theirs.where(Workspace.id == workspace_id))
    if wanted is None:
        raise NotFoundError("workspace")
    rights_changed(session)
    own = (BrowserSession.token_sha256 == cookie_sha256) & (BrowserSession.user_id == principal.user_id)
    switched = update(BrowserSession).where(own).values(workspace_id=wanted).returning(BrowserSession.id)
    record(session, principal, "session.switch", session.scalars(switched).one(), workspace_id=wanted)


def _known_by(session: Session, email: str) -> UserTable | None:
    """Find the person who has signed in with this e-mail and whose issuer has verified it."""
    known = UserTable.subject.is_not(None) & UserTable.email_verified & (UserTable.email == email)
    return session.scalars(select(UserTable).where(known).order_by(UserTable.id.desc()).limit(1)).one_or_none()


def _invited(session: Session, email: str) -> UserTable:
    """Find or create the row of a person who has not signed in yet."""
    session.execute(
        insert(UserTable)
        .values(id=new_id("usr"), email=email)
        .on_conflict_do_nothing(index_elements=["email"], index_where=UserTable.subject.is_(None))
    )
    return session.scalars(select(UserTable).where(UserTable.email == email, UserTable.subject.is_(None))).one()


def _join(session: Session, principal: Principal, user_id: str, role: Role) -> bool:
    """Make the person a member of the principal's workspace; return False if they are one already."""
    added = session.scalar(
        insert(Membership)
        .values(id=new_id("mbr"), workspace_id=principal.workspace_id, user_id=user_id, role=role, given_by="admin")
        .on_conflict_do_nothing(index_elements=["workspace_id", "user_id"])
        .returning(Membership.id)
    )
    if added is not None:
        record(session, principal, "member.add", f"{user_id}/{role}")
    return added is not None


def _refuse_own(principal: Principal, user_id: str) -> None:
    """Refuse changes to one's own role, so that a workspace with an admin keeps one."""
    if user_id == principal.user_id:
        raise ConflictError("own_role", "You cannot change your own role or disable yourself. Ask another admin.")
