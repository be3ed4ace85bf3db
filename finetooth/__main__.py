"""The `finetooth` command, also as `python -m finetooth`."""

import sys

from finetooth.extras import MissingExtraError, needs_extra

USAGE_ERROR = 2
"""As of a setting that cannot be used: nothing was begun."""


def main() -> None:
    """Run the command, or say what to install where the service is not."""
    try:
        with needs_extra("service", "the command"):
            from service.cli.app import app

            app()
    except MissingExtraError as error:
        sys.stderr.write(f"finetooth: {error}\n")
        sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
