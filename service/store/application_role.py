"""The role that the service works as: owner of its database and of all in it, and of nothing else on the server.

It is no superuser, which may run programs and read files where Postgres runs (COPY ... TO PROGRAM): whoever comes by
its password, or finds a way to send a statement of their own, has the data and not the machine.
"""

from psycopg import Connection, sql

READING_ROLE = "finetooth_bi"
"""May read the views of `bi`. Made here, as a role that owns one database makes no others."""

_NOT_OF_POSTGRES = "NOT IN (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_%' OR nspname = 'information_schema')"

# What belongs to an extension, or to a table as the sequence of a column does, goes with that.
_TO_HAND_OVER = f"""
    SELECT format('SCHEMA %I', nspname) FROM pg_namespace
    WHERE nspowner = current_user::regrole AND oid {_NOT_OF_POSTGRES} AND nspname <> 'public'
    UNION ALL
    SELECT format('TABLE %s', oid::regclass) FROM pg_class AS relation
    WHERE relowner = current_user::regrole AND relnamespace {_NOT_OF_POSTGRES} AND relkind IN ('r', 'p', 'v', 'm', 'S')
        AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = relation.oid
                AND (deptype = 'e' OR relkind = 'S' AND deptype IN ('a', 'i'))
        )
    UNION ALL
    SELECT format('ROUTINE %s', oid::regprocedure) FROM pg_proc AS routine
    WHERE proowner = current_user::regrole AND pronamespace {_NOT_OF_POSTGRES}
        AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = routine.oid AND deptype = 'e'
        )
"""  # noqa: S608  # constants


class RoleIsSuperuserError(ValueError):
    """The role that the service is to work as is the very superuser that should make it."""


def own_database(superuser: Connection, role: str, *, password: str | None = None) -> None:
    """Make a plain role and give it the database and all that the superuser owns there, as often as it is called.

    Databases of older versions belong to the superuser as whom the service then worked.

    Args:
        superuser: A connection to the service's database.
        role: Its name.
        password: With which the role signs in; None: it needs none here.

    Raises:
        RoleIsSuperuserError: It is the role of the connection.
    """
    name = sql.Identifier(role)
    plain: sql.Composable = sql.SQL("LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
    if password is not None:
        # As a hash: the server may log a statement.
        hashed = superuser.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        plain = sql.SQL("{} PASSWORD {}").format(plain, sql.Literal(hashed.decode()))
    with superuser.transaction():
        if superuser.execute("SELECT current_user = %s", (role,)).fetchone() == (True,):
            raise RoleIsSuperuserError
        for missing in (role, READING_ROLE):
            if superuser.execute("SELECT FROM pg_roles WHERE rolname = %s", (missing,)).fetchone() is None:
                superuser.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(missing)))
        superuser.execute(sql.SQL("ALTER ROLE {} {}").format(name, plain))
        database = sql.Identifier(superuser.info.dbname)
        superuser.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, name))
        for (what,) in superuser.execute(_TO_HAND_OVER).fetchall():
            superuser.execute(sql.SQL("ALTER {} OWNER TO {}").format(sql.SQL(what), name))
