"""`finetooth export`: from the request to the file."""

from pathlib import Path
from typing import Any

from rich.console import Console

from service.cli.connect import open_running_server
from service.cli.errors import FAILED, CommandError
from service.cli.outputs import check_output_file
from service.cli.progress import ProgressDisplay
from service.cli.results import output_console
from service.client import ExportError
from service.settings import Settings
from service.text.wording import data_size


def run_export(
    settings: Settings, audit_id: str, out: Path, *, kind: str, format: str, filter: str | None, max_q: float | None
) -> int:
    """Create an export, wait for it, and write it to a file, which appears complete or not at all.

    KeyboardInterrupt, or anything else that ends the wait, cancels the export.

    Args:
        settings: The data folder of the laptop stack.
        audit_id: The audit.
        out: The file.
        kind: `cleaned`, `flagged` or `scores`.
        format: `jsonl`, `csv` or `parquet`.
        filter: `flagged`, `confirmed` or `not_rejected`; None for the API's default.
        max_q: A false discovery rate between 0 and 1 to flag at; None for the audit's.

    Returns:
        The exit code 0.

    Raises:
        CommandError: An option is wrong, no service answers, the export failed, or the file cannot be written.
    """
    check_output_file(out)
    if max_q is not None and not 0 < max_q < 1:
        raise CommandError(f"--max-q must be between 0 and 1, not {max_q:g}")
    with (
        ProgressDisplay(Console(stderr=True, highlight=False)) as progress,
        open_running_server(settings) as server,
    ):
        last: dict[str, Any] = {}

        def show(export: dict[str, Any]) -> None:
            progress.export(export)
            last.update(export)

        try:
            server.client.export(
                audit_id,
                kind,
                format,
                to=out,
                filter=filter,
                max_q=max_q,
                on_progress=show,
                on_download=progress.download,
            )
        except ExportError as error:
            raise CommandError(str(error), FAILED) from None
        except OSError as error:
            raise CommandError(f"{out}: cannot be written: {error.strerror}", FAILED) from None
    console = output_console()
    console.print(f"{out}: {data_size(out.stat().st_size)}", markup=False)
    if cut := last["rows_truncated"]:
        samples = "1 sample in it was" if cut == 1 else f"{cut} samples in it were"
        console.print(
            f"Caution: {samples} not measured to the end, because the audit's token limit cut the text off. "
            "An audit with a larger training.max_length measures all of it.",
            markup=False,
        )
    return 0
