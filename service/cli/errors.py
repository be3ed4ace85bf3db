"""Errors that end a command early, each as one line for the user."""

from service.client import ApiError

BAD_INPUT = 2
"""Exit code where the command was called in a wrong way, or with a file that cannot be used."""

FAILED = 1
"""Exit code where the command was right and its work failed."""


class CommandError(Exception):
    """A message of one line; `exit_code` is 2 for bad input, else 1."""

    def __init__(self, message: str, exit_code: int = BAD_INPUT) -> None:
        """Keep the message.

        Args:
            message: What happened and what to do next; folded to one line.
            exit_code: The exit code of the command.
        """
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


def as_sentences(*parts: str) -> str:
    """Join the parts, each with a capital and a full stop; empty ones are left out."""
    said = (part.strip() for part in parts)
    return " ".join(
        part[0].upper() + part[1:] + ("" if part.endswith((".", "!", "?")) else ".") for part in said if part
    )


def refused(error: ApiError, subject: str = "") -> CommandError:
    """Build the error for what the API refused.

    Args:
        error: The refusal.
        subject: What it is about, such as a file's name.
    """
    detail = error.detail
    first = error.errors[0] if error.errors else None
    if first is not None:
        where = first["pointer"].replace("line:", "line ").removeprefix("#/")
        if where.lower() not in detail.lower():
            detail = (
                f"{detail} ({where}: {first['detail']})" if first["detail"] not in detail else f"{detail} ({where})"
            )
    if error.status in (401, 403):
        detail = f"{detail} Check FINETOOTH_API_KEY."
    bad_input = 400 <= error.status < 500 and error.status not in (408, 429)
    return CommandError(f"{subject}: {detail}" if subject else detail, BAD_INPUT if bad_input else FAILED)
