"""`finetooth report`: an audit's report as a file."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from service.cli.connect import open_running_server
from service.cli.errors import FAILED, CommandError
from service.cli.outputs import check_output_file
from service.cli.results import output_console
from service.settings import Settings
from service.text.wording import data_size


def write_report(settings: Settings, audit_id: str, out: Path | None) -> int:
    """Write an audit's report to a file, which appears complete or not at all.

    Args:
        settings: The data folder of the laptop stack.
        audit_id: The audit.
        out: The file; None for `finetooth-report-AUDIT.html` in this folder.

    Returns:
        The exit code 0.

    Raises:
        CommandError: The id is malformed, no service answers, or the file cannot be written.
        ApiError: The service refuses, for instance because the audit has not finished.
    """
    if out is None:
        if not audit_id.replace("_", "").isalnum():  # it would be a part of the file's name
            raise CommandError(f"{audit_id}: not the id of an audit")
        out = Path(f"finetooth-report-{audit_id}.html")
    check_output_file(out)
    with open_running_server(settings) as server:
        content = server.client.report(audit_id)
    try:
        with NamedTemporaryFile(dir=out.parent, prefix=f".{out.name[:100]}.", suffix=".part", delete=False) as file:
            try:
                file.write(content)
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, out)
    except OSError as error:
        raise CommandError(f"{out}: cannot be written: {error.strerror}", FAILED) from None
    output_console().print(f"{out}: {data_size(len(content))}", markup=False)
    return 0
