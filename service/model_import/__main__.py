"""`python -m service.model_import WORKSPACE NAME FOLDER`.

Copies the base model in FOLDER into the object store, and registers it as NAME in the workspace of that id or name. It
runs where the settings of the API are, on a machine that sees the folder; the service may run meanwhile.
"""

import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from service.contract.stored_models import StoredModel
from service.model_import.importing import ImportRefusedError, import_model
from service.settings import BadSettingsError, Settings, settings_or_exit
from service.store.database_errors import cause_of
from service.store.engine import make_engine, make_sessions
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectStoreUnavailableError

USAGE = "usage: python -m service.model_import WORKSPACE NAME FOLDER"
"""How the command is called, as users see it after a wrong call."""


def main(arguments: list[str], settings: Settings) -> int:
    """Import one model.

    Args:
        arguments: What follows the program's name on the command line.
        settings: Those of the installation.

    Returns:
        The exit code: 0, 2 for a wrong call or setting, 1 if the model was not imported.
    """
    if len(arguments) != 3:
        return _fail(USAGE, code=2)
    if settings.database_url is None:
        return _fail("set FINETOOTH_DATABASE_URL to the installation's database", code=2)
    workspace, name, folder = arguments
    url = settings.database_url.get_secret_value()
    engine = make_engine(url, pool_size=1, pooler=settings.database_pooler, application_name="finetooth-import")
    try:
        model = import_model(
            make_sessions(engine), make_object_store(settings), workspace=workspace, name=name, folder=Path(folder)
        )
    except BadSettingsError as error:
        return _fail(str(error), code=2)
    except (ImportRefusedError, ObjectStoreUnavailableError) as error:
        return _fail(str(error))
    except SQLAlchemyError as error:
        return _fail(f"the database cannot be used: {cause_of(error)}")
    except OSError as error:
        return _fail(f"{error.filename or folder}: {error.strerror}")
    finally:
        engine.dispose()
    stored = StoredModel.model_validate(model.stored)
    print(f"{model.id}: {len(stored.files)} files, {stored.bytes:,} bytes, SHA-256 {stored.digest}")  # noqa: T201
    return 0


def _fail(reason: str, *, code: int = 1) -> int:
    print(reason, file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], settings_or_exit()))
