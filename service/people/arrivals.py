"""Signing a person in: their row is found or created, roles follow their groups, and a session begins."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.http.audit_log import Action, record
from service.http.auth.principal_cache import rights_changed
from service.keys.secrets import open_browser_session, sign_out
from service.people.identity import Identity, roles_by_groups
from service.roles import Role
from service.settings import Settings
from service.store.ids import new_id
from service.store.seed import DEFAULT_WORKSPACE
from service.store.tables import BrowserSession, Membership, User, Workspace

FIRST_ADMIN_LOCK = 0x66_74_61_64_6D_69
"""Advisory lock key ("ftadmi"): of two people who sign in at the same time, only one becomes the first admin."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PersonRefused:
    """The reason why a person whom the issuer knows may not sign in."""

    reason: Literal["disabled", "no_role"]


@dataclass(frozen=True)
class _Arriving:
    """The person who signs in, as the actor of an entry in the audit log."""

    workspace_id: str
    user_id: str
    key_id: None = None


def arrive(session: Session, identity: Identity, settings: Settings) -> str | PersonRefused:
    """Sign a person in: create or update their row, set the roles of their groups, and begin a browser session.

    Who is refused is known afterwards too, so that an admin can give them a role.

    Args:
        session: An open transaction.
        identity: Who the issuer says it is.
        settings: Which groups give which roles, and how long the browser stays signed in.

    Returns:
        The browser's cookie, or why it gets none.
    """
    user = _known(session, identity)
    if user.disabled_at is not None:
        return PersonRefused("disabled")
    if user.email_verified:
        _take_invitation(session, user)
    _follow_settings(session, user, _wanted(session, user, identity, settings))
    if user.email_verified and user.email == settings.first_admin_email:
        _become_first_admin(session, user)
    workspaces = select(Membership.workspace_id).where(Membership.user_id == user.id).order_by(Membership.id)
    workspace_id = session.scalars(workspaces.limit(1)).one_or_none()
    if workspace_id is None:
        return PersonRefused("no_role")
    return open_browser_session(session, workspace_id=workspace_id, user_id=user.id, hours=settings.session_hours)


def _known(session: Session, identity: Identity) -> User:
    """Return the person's row, locked and updated to what the issuer says now; create it if there is none."""
    own = (User.issuer == identity.issuer) & (User.subject == identity.subject)
    session.execute(
        insert(User)
        .values(id=new_id("usr"), issuer=identity.issuer, subject=identity.subject)
        .on_conflict_do_nothing(index_elements=["issuer", "subject"])
    )
    user = session.scalars(select(User).where(own).with_for_update()).one()
    user.email, user.email_verified, user.name = identity.email, identity.email_verified, identity.name
    if user.disabled_at is None:
        user.last_sign_in_at = func.now()
    session.flush()
    session.refresh(user)
    return user


def _take_invitation(session: Session, user: User) -> None:
    """Give the person the roles that admins gave to the e-mail before anybody had signed in with it."""
    waiting = select(User).where(User.subject.is_(None), User.email == user.email).with_for_update()
    invited = session.scalars(waiting).one_or_none()
    if invited is None:
        return
    own = select(Membership.workspace_id).where(Membership.user_id == user.id)
    theirs = (Membership.user_id == invited.id) & Membership.workspace_id.not_in(own)
    moved = update(Membership).where(theirs).values(user_id=user.id).returning(Membership.workspace_id, Membership.role)
    taken = session.execute(moved, execution_options={"synchronize_session": False}).all()
    session.execute(delete(User).where(User.id == invited.id))
    for member in taken:
        _record(session, user, "member.add", member.workspace_id, member.role)


def _wanted(session: Session, user: User, identity: Identity, settings: Settings) -> dict[str, Role]:
    """Return the roles that the settings give the person, by workspace id."""
    roles = roles_by_groups(identity, settings)
    if not roles and settings.default_role is not None:
        given = select(Membership.id).where(Membership.user_id == user.id, Membership.given_by == "admin").limit(1)
        if session.scalar(given) is None:
            roles = {DEFAULT_WORKSPACE: settings.default_role}
    living = select(Workspace.id, Workspace.name).where(Workspace.deletion_requested_at.is_(None))
    found = {name: id for id, name in session.execute(living) if name in roles}
    for name in roles.keys() - found.keys():
        log.warning("FINETOOTH_GROUP_ROLES names the workspace %r, which does not exist", name)
    return {found[name]: role for name, role in roles.items() if name in found}


def _follow_settings(session: Session, user: User, wanted: Mapping[str, Role]) -> None:
    """Add, change and remove the roles that come from the settings and not from an admin."""
    members = session.scalars(select(Membership).where(Membership.user_id == user.id)).all()
    here = {member.workspace_id: member for member in members}
    for workspace_id, role in wanted.items():
        member = here.get(workspace_id)
        if member is None:
            _add(session, user, workspace_id, role, given_by="settings")
        elif member.given_by == "settings" and member.role != role:
            member.role = role
            _record(session, user, "member.change", workspace_id, role)
    for workspace_id, member in here.items():
        if member.given_by == "settings" and workspace_id not in wanted:
            session.delete(member)
            in_it = select(BrowserSession.id).where(BrowserSession.user_id == user.id)
            ended = session.scalars(in_it.join(Workspace).where(Workspace.id == workspace_id)).all()
            sign_out(session, BrowserSession.id.in_(ended))
            _record(session, user, "member.remove", workspace_id, None)
    session.flush()


def _become_first_admin(session: Session, user: User) -> None:
    """Make the person an admin of the first workspace, unless a person is one."""
    session.execute(select(func.pg_advisory_xact_lock(FIRST_ADMIN_LOCK)))
    first = select(Membership).join(Workspace).where(Workspace.name == DEFAULT_WORKSPACE)
    admins = first.join(User, User.id == Membership.user_id).where(
        Membership.role == "admin", User.disabled_at.is_(None), User.subject.is_not(None)
    )
    if session.scalars(admins.limit(1)).one_or_none() is not None:
        return
    member = session.scalars(first.where(Membership.user_id == user.id)).one_or_none()
    if member is None:
        workspace_id = session.scalars(select(Workspace.id).where(Workspace.name == DEFAULT_WORKSPACE)).one()
        _add(session, user, workspace_id, "admin", given_by="admin")
    else:
        member.role, member.given_by = "admin", "admin"
        _record(session, user, "member.change", member.workspace_id, "admin")
    session.flush()


def _add(session: Session, user: User, workspace_id: str, role: Role, *, given_by: str) -> None:
    session.add(Membership(id=new_id("mbr"), workspace_id=workspace_id, user_id=user.id, role=role, given_by=given_by))
    session.flush()
    _record(session, user, "member.add", workspace_id, role)


def _record(session: Session, user: User, action: Action, workspace_id: str, role: str | None) -> None:
    rights_changed(session)
    subject = user.id if role is None else f"{user.id}/{role}"
    record(session, _Arriving(workspace_id, user.id), action, subject)
