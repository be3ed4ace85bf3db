"""A one-time link of the laptop stack that runs, made from another process of its owner."""

from service.keys.secrets import create_sign_in_link
from service.local.admin_key import admin_key_file, ensure_admin_key
from service.local.postgres import EmbeddedPostgres
from service.settings import Settings
from service.store.engine import check_reachable, make_engine, make_sessions
from service.store.seed import ensure_workspace


def new_sign_in_link(settings: Settings, url: str) -> str:
    """Make a link that signs one browser in, once, with the rights of the stack's admin key.

    Args:
        settings: Those that the stack was started with.
        url: Where it answers.

    Raises:
        DatabaseUnreachableError: Its database takes no connection.
        StackError: The data folder's path is too long for a Unix socket.
    """
    if settings.database_url is not None:
        database = settings.database_url.get_secret_value()
    else:
        database = EmbeddedPostgres(
            settings.data_dir / "postgres", log=settings.data_dir / "logs" / "postgres.log"
        ).url()
    engine = make_engine(database, pool_size=1, pooler=settings.database_pooler, application_name="finetooth sign-in")
    try:
        check_reachable(engine)
        with make_sessions(engine).begin() as session:
            workspace = ensure_workspace(session)
            key_id, _ = ensure_admin_key(session, workspace_id=workspace.id, path=admin_key_file(settings))
            token = create_sign_in_link(session, key_id=key_id, minutes=settings.sign_in_link_minutes)
    finally:
        engine.dispose()
    return f"{url}/sign-in?token={token}"
