"""Causes of database errors in words that hold no password, address or sample."""

import re

from psycopg import errors

from service.store.engine import OPTIONS_LOST

CAUSES = {
    "53300": "it has no connection left (max_connections)",
    "57P01": "it is shutting down",
    "57P03": "it is starting or shutting down",
    "28P01": "it refuses the password",
    "28000": "it refuses the role, or its pg_hba.conf the address",
    "3D000": "it has no database of this name",
    "08P01": "a pooler in between passes no options on: set FINETOOTH_DATABASE_POOLER=transaction",
    "25P03": "it ended a transaction in which nothing happened for too long",
}
"""In words, by SQLSTATE; others are called by the name of their condition."""

SAID = (
    # Before a connection stands, libpq has no SQLSTATE, only what the server or the system said.
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    (r"role .* does not exist|no pg_hba\.conf entry", "28000"),
    (r"database .* does not exist", "3D000"),
    ("too many clients|remaining connection slots|too many connections for", "53300"),
    ("is starting up|is shutting down", "57P03"),
    (f"unsupported startup parameter|command-line options|{OPTIONS_LOST}", "08P01"),
)

UNREACHED = (
    ("refused", "nothing listens at its address"),
    ("timeout expired|timed out", "its address does not answer in time"),
    ("could not translate host name|failed to resolve|[Nn]ame or service not known", "its host name is unknown"),
    ("No route to host|Network is unreachable", "there is no way to its address"),
    ("No such file or directory", "its socket is not there"),
    ("certificate|SSL", "it does not agree on TLS"),
    ("server closed the connection|terminating connection|connection is closed|lost", "it ended the connection"),
)
"""What drivers say where no connection comes about, as a pattern, and what we say instead."""


def cause_of(error: BaseException) -> str:
    """Why the database did not do what it was asked for, in one line of our own words.

    Args:
        error: An error of SQLAlchemy or psycopg. Its message is looked through for known phrases, and never quoted: it
            may hold an address, a role or a sample.

    Returns:
        Such as "28P01, it refuses the password", or the kind of the error where nothing more is known.
    """
    origin = getattr(error, "orig", None) or error
    message = str(origin)
    state = getattr(origin, "sqlstate", None) or next((code for words, code in SAID if re.search(words, message)), None)
    if state is not None:
        return f"{state}, {CAUSES.get(state) or _condition(state)}"
    for words, cause in UNREACHED:
        if re.search(words, message):
            return cause
    return type(origin).__name__


def _condition(state: str) -> str:
    try:
        return errors.lookup(state).__name__
    except KeyError:
        return "an error without a name"
