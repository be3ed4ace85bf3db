"""`finetooth sign-in`: a new link to the dashboard of the running laptop stack."""

import typer

from service.cli.connect import running_stack
from service.cli.errors import FAILED, CommandError
from service.settings import Settings


def print_sign_in_link(settings: Settings) -> int:
    """Print a sign-in link alone on stdout, and how long it is valid on stderr.

    Args:
        settings: The data folder of the laptop stack.

    Returns:
        The exit code 0.

    Raises:
        CommandError: No stack runs here, or its database does not answer.
    """
    url = running_stack(settings, lambda _: None)
    if url is None:
        raise CommandError(
            f"no `finetooth up` is running on {settings.data_dir}: start it, or set FINETOOTH_DATA_DIR to its folder. "
            "On a shared server, type your API key into the sign-in page, or ask its operator for a link"
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
    typer.echo(f"The link signs one browser in, once, within {settings.sign_in_link_minutes} minutes.", err=True)
    return 0
