"""`finetooth sign-in`: a fresh link to the dashboard of the laptop stack that runs."""

import typer

from service.cli.connect import running_stack
from service.cli.errors import FAILED, CommandError
from service.settings import Settings


def print_sign_in_link(settings: Settings) -> int:
    """Print the link alone on stdout, and how long it works on stderr.

    Raises:
        CommandError: No stack runs here, or its database takes no connection.
    """
    url = running_stack(settings, lambda _: None)
    if url is None:
        raise CommandError(
            f"no `finetooth up` runs on {settings.data_dir}: start it, or set FINETOOTH_DATA_DIR to its folder. On a "
            "shared server, type your API key into the sign-in page, or ask whoever runs the server for a link"
        )
    from service.local.errors import StackError
    from service.local.sign_in import new_sign_in_link
    from service.store.engine import DatabaseUnreachableError

    try:
        link = new_sign_in_link(settings, url)
    except (DatabaseUnreachableError, StackError) as error:
        raise CommandError(
            f"{error}. Run this with the settings that `finetooth up` was started with", FAILED
        ) from None
    typer.echo(link)
    typer.echo(f"It signs one browser in, once, within {settings.sign_in_link_minutes} minutes.", err=True)
    return 0
