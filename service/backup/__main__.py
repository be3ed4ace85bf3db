"""`python -m service.backup create | verify | restore FOLDER [--objects-only]`, and `check`.

create: dumps the database of FINETOOTH_DATABASE_URL and then copies the objects, while the service runs.
verify: reads a backup as a whole, without the service.
restore: into an empty database and object store, while no API and no worker runs.
check: whether every row finds its objects, in the installation of the settings.
With --objects-only the database is dumped before, into FOLDER/database.dump, or restored after by other means.
"""

import sys
from pathlib import Path

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from service.backup.archive import BackupError, create, restore, verify
from service.backup.missing import missing_objects
from service.settings import BadSettingsError, Settings, settings_or_exit
from service.store.database_errors import cause_of
from service.store.engine import make_engine, make_sessions
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectStoreUnavailableError

USAGE = "usage: python -m service.backup create|verify|restore FOLDER [--objects-only] | check"
"""How the command is called, as users see it after a wrong call."""

OBJECTS_ONLY = "--objects-only"
"""The option that leaves the database to other means."""

MOST_NAMED = 20
"""Missing objects that `check` names; an installation with the wrong bucket would name all."""


def main(arguments: list[str], settings: Settings) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name on the command line.
        settings: Those of the installation.

    Returns:
        The exit code: 0, 2 for a wrong call or setting, 1 if the command fails or `check` finds objects missing.
    """
    dump = OBJECTS_ONLY not in arguments
    arguments = [argument for argument in arguments if argument != OBJECTS_ONLY]
    try:
        match arguments:
            case ["verify", folder]:
                print(f"The backup is whole: the database and {len(verify(Path(folder)))} objects.")  # noqa: T201
                return 0
            case ["create" | "restore", _] | ["check"] if settings.database_url is None:
                return _fail("set FINETOOTH_DATABASE_URL to the installation's database", code=2)
            case ["create" | "restore" as act, folder]:
                assert settings.database_url is not None
                run = create if act == "create" else restore
                url = settings.database_url.get_secret_value()
                count = run(url, make_object_store(settings), Path(folder), dump=dump)
                print(f"{act}: {'the database and ' if dump else ''}{count} objects.")  # noqa: T201
                return 0
            case ["check"]:
                return _check(settings)
            case _:
                return _fail(USAGE, code=2)
    except BadSettingsError as error:
        return _fail(str(error), code=2)
    except (BackupError, ObjectStoreUnavailableError) as error:
        return _fail(str(error))
    except (psycopg.Error, SQLAlchemyError) as error:
        return _fail(f"the database cannot be used: {cause_of(error)}")
    except OSError as error:
        return _fail(f"{error.filename or 'the folder'}: {error.strerror}")


def _check(settings: Settings) -> int:
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    engine = make_engine(url, pool_size=1, pooler=settings.database_pooler, application_name="finetooth-backup")
    try:
        with make_sessions(engine)() as session:
            missing = missing_objects(session, make_object_store(settings))
    finally:
        engine.dispose()
    for key in missing[:MOST_NAMED]:
        print(f"missing: {key}")  # noqa: T201
    end = f"{len(missing)} objects are missing: delete what they belong to."
    print(end if missing else "Every row finds its objects.")  # noqa: T201
    return 1 if missing else 0


def _fail(reason: str, *, code: int = 1) -> int:
    print(reason, file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], settings_or_exit()))
