"""Workspaces on the command line: what each has, its limits, and its deletion."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from service.cli.connect import open_running_server
from service.cli.errors import CommandError
from service.cli.results import output_console
from service.client import Client
from service.settings import Settings
from service.text.wording import data_size, whole

DEFAULT = "default"
"""Typed in place of a number: the limit of the installation's settings."""


def print_workspaces(settings: Settings) -> int:
    """Print the workspaces that the key may see with what they have. Returns the exit code."""
    with open_running_server(settings) as server:
        rows = [(found, server.client.workspace_usage(found["id"])) for found in server.client.workspaces()]
    deletions = any(workspace["deletion"] for workspace, _ in rows)
    table = Table("Workspace", "Id", "Queued audits", "Running audits", "Storage", *(["Deletion"] if deletions else []))
    for workspace, usage in rows:
        table.add_row(
            workspace["name"],
            workspace["id"],
            _in_words(usage["queued_audits"], whole),
            _in_words(usage["running_audits"], whole),
            _in_words(usage["storage"], data_size),
            *([_progress(workspace["deletion"])] if deletions else []),
        )
    output_console().print(table)
    return 0


def set_limits(settings: Settings, workspace: str, typed: Mapping[str, str | None]) -> int:
    """Set limits of one workspace and print what it has then.

    Args:
        settings: Say where the service is.
        workspace: Its id or name.
        typed: A number or `default` by the limit's name; None: it stays as it is.

    Returns:
        The exit code.

    Raises:
        CommandError: A limit is no number, none is given, or there is no such workspace.
    """
    limits = {name: _limit(name, text) for name, text in typed.items() if text is not None}
    if not limits:
        options = ", ".join(_option(name) for name in typed)
        raise CommandError(f"nothing to set: give at least one of {options}")
    with open_running_server(settings) as server:
        found = find(server.client, workspace)
        server.client.change_workspace(found["id"], **limits)
    return print_workspaces(settings)


def delete(settings: Settings, workspace: str, confirmed: str | None) -> int:
    """Delete one workspace with everything in it and print how far that is; typed again, it says so again.

    Args:
        settings: Say where the service is.
        workspace: Its id or name.
        confirmed: Its name, typed once more; None: nothing is deleted, and the error says what would be.

    Returns:
        The exit code.

    Raises:
        CommandError: The name was not typed once more, or there is no such workspace.
    """
    with open_running_server(settings) as server:
        found = find(server.client, workspace)
        if confirmed is None:
            storage = server.client.workspace_usage(found["id"])["storage"]["used"]
            raise CommandError(
                f"nothing was deleted: {found['name']!r} ({found['id']}, {data_size(storage)}) would be deleted with "
                "everything in it, and there is no way back; type its name once more with --confirm"
            )
        deletion = server.client.delete_workspace(found["id"], confirmed)["deletion"]
    output_console().print(
        f"{found['id']} is being deleted in the background ({deletion['status']}): {deletion['done']:,} of "
        f"{deletion['total']:,} gone. `finetooth workspaces` shows it until it is deleted.",
        markup=False,
    )
    return 0


def find(client: Client, workspace: str) -> dict[str, Any]:
    """Find the workspace of this id or name.

    Args:
        client: The client of the service.
        workspace: Its id or name.

    Raises:
        CommandError: The key sees none.
    """
    for found in client.workspaces():
        if workspace in (found["id"], found["name"]):
            return found
    raise CommandError(f"there is no workspace {workspace!r} that your key may see: `finetooth workspaces` lists them")


def _limit(name: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise CommandError(f"{_option(name)} must be a whole number from 1 on, or `{DEFAULT}`, not {text!r}")
    return int(text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _progress(deletion: Mapping[str, Any] | None) -> str:
    if deletion is None:
        return ""
    return f"{deletion['status']}: {deletion['done']:,} of {deletion['total']:,} gone"


def _in_words(use: Mapping[str, Any], shown: Callable[[int], str]) -> str:
    return shown(use["used"]) if use["limit"] is None else f"{shown(use['used'])} of {shown(use['limit'])}"
