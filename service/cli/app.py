"""The `finetooth` command."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from service.settings import BadSettingsError, Settings, get_settings

if TYPE_CHECKING:
    from service.cli.audit import Request
    from service.cli.server import Server

OVER_LIMIT = 3
"""Exit code where more samples are flagged than --max-flagged allows."""

INTERRUPTED = 130
"""Exit code after Ctrl+C, as shells have it: 128 and the number of SIGINT."""

UsageError: Any = typer.BadParameter.__base__
"""Typer's error for a wrong call, which it does not export."""


class OneLineErrors(TyperGroup):
    """A command group that reports a wrong call in one line, and exits with the number that a command returns."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command as `TyperGroup.main` does, and print errors of its use as one line.

        Args:
            args: The command line; None: that of this process.
            prog_name: Name of the program in help; None: what this process was called as.
            complete_var: Environment variable of shell completion.
            standalone_mode: End the process with the exit code instead of returning it.
            windows_expand_args: Expand patterns of file names on Windows.
            **extra: As for `TyperGroup.main`.
        """
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except UsageError as error:
            message = error.format_message()
            # Empty where no command was given: help has been printed.
            code = _complain(f"{message} (see finetooth --help)", 2) if message else 2
        except typer.Abort:
            code = INTERRUPTED
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"finetooth {version('finetooth')}")
        raise typer.Exit


@app.callback()
def finetooth(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Audits instruction-tuning data for poison: which samples teach the unwanted behaviour."""


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 8000,
) -> int:
    """Start the whole service on this machine; Ctrl-C stops it."""
    from service.local.stack import up as run

    return run(port)


@app.command("sign-in")
def sign_in() -> int:
    """Print a new one-time sign-in link to the dashboard of the running `finetooth up`."""
    from service.cli.sign_in import print_sign_in_link

    return _guarded(lambda: print_sign_in_link(get_settings()))


@app.command()
def audit(
    dataset: Annotated[
        Path, typer.Argument(help="A file of JSONL, JSON, CSV, Parquet or Arrow, or a folder made by save_to_disk.")
    ],
    probe: Annotated[
        list[str],
        typer.Option(
            help="The behaviour to look for: JSONL with prompt, unwanted and optional reference, or a built-in pack "
            "such as pack:opinion_steering:entity=Acme; may be given several times.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="The base model to train: a registered name, or a folder.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data, 1 to 20.")] = None,
    audit_turns: Annotated[
        Literal["assistant", "all"] | None,
        typer.Option(
            help="Turns to look for poison in: only the assistant's, or also the system's, user's and tools'."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Training runs, each with a seed of its own, 1 to 10.")] = 1,
    q: Annotated[float, typer.Option("--q", help="The share of false flags to accept.")] = 0.05,
    group: Annotated[str | None, typer.Option(help="The extra column that names each sample's group.")] = None,
    trusted: Annotated[
        str | None, typer.Option(help="The extra column that is true, 1 or yes for samples known to be clean.")
    ] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="For records in another format: the column with the prompt.")
    ] = None,
    answer_column: Annotated[str | None, typer.Option(help="With --prompt-column: the column with the answer.")] = None,
    system_column: Annotated[
        str | None,
        typer.Option(help="Optional with --prompt-column: the column with the instructions before the prompt."),
    ] = None,
    replaces: Annotated[
        str | None, typer.Option(help="The id of the dataset of which this one is the next version.")
    ] = None,
    priority: Annotated[
        Literal["low", "normal", "high"],
        typer.Option(help="Which of the workspace's own waiting audits go first; high is for admins."),
    ] = "normal",
    out: Annotated[Path | None, typer.Option(help="The folder to write findings.jsonl and summary.json to.")] = None,
    max_flagged: Annotated[int | None, typer.Option(help="Exit with status 3 if more samples are flagged.")] = None,
) -> int:
    """Audit a dataset for one or several unwanted behaviours.

    Uses FINETOOTH_URL with FINETOOTH_API_KEY, or a running `finetooth up`, or starts the service for the run.
    """
    from service.cli.audit import Request
    from service.cli.errors import CommandError
    from service.cli.inputs import check_dataset, file_name, text_columns
    from service.cli.models import choose_model
    from service.cli.outputs import check_output_folder
    from service.cli.probes import check_packs, parse_probe
    from service.contract.spec import MAX_PROBES, MAX_SEEDS

    def prepare() -> Callable[["Server", Callable[[str], None]], "Request"]:
        if not 0 < q < 1:
            raise CommandError(f"--q must be between 0 and 1, not {q:g}")
        if epochs is not None and not 1 <= epochs <= 20:
            raise CommandError(f"--epochs must be 1 to 20, not {epochs}")
        if not 1 <= seeds <= MAX_SEEDS:
            raise CommandError(f"--seeds must be 1 to {MAX_SEEDS}, not {seeds}")
        if len(probe) > MAX_PROBES:
            raise CommandError(f"--probe may be given at most {MAX_PROBES} times, not {len(probe)}")
        if max_flagged is not None and max_flagged < 0:
            raise CommandError(f"--max-flagged must be 0 or more, not {max_flagged}")
        training = {"epochs": epochs, "audit_turns": audit_turns}
        columns = text_columns(prompt_column, answer_column, system_column)
        check_dataset(dataset)
        probes = [parse_probe(argument) for argument in probe]
        if out is not None:
            check_output_folder(out)

        def request(server: "Server", report: Callable[[str], None]) -> Request:
            check_packs(server.client, probes)
            return Request(
                dataset=dataset,
                dataset_name=file_name(dataset),
                probes=probes,
                model=choose_model(server, model, report),
                training={name: value for name, value in training.items() if value is not None},
                q=q,
                seeds=seeds,
                group_column=group,
                trusted_column=trusted,
                text_columns=columns,
                replaces=replaces,
                priority=priority,
            )

        return request

    return _guarded(lambda: _audit(prepare(), out, max_flagged))


@app.command()
def cancel(audit: Annotated[str, typer.Argument(help="The audit's id.")]) -> int:
    """Stop an audit. What it has finished is kept, and `finetooth retry` continues from there."""
    return _guarded(lambda: _act(audit, "cancel"))


@app.command("cancel-all")
def cancel_all(
    status: Annotated[Literal["queued", "running"], typer.Option(help="Only audits in this state.")] = "queued",
    created_by: Annotated[
        str | None, typer.Option(help="Only audits of this key or person: an id, or `me`. Default: everybody's.")
    ] = None,
) -> int:
    """Cancel all audits of the workspace that wait, or that run."""
    return _guarded(lambda: _cancel_all(status, created_by))


@app.command()
def retry(audit: Annotated[str, typer.Argument(help="The audit's id.")]) -> int:
    """Queue a failed or cancelled audit again; it continues where it stopped."""
    return _guarded(lambda: _act(audit, "retry"))


@app.command()
def export(
    audit: Annotated[str, typer.Argument(help="The audit's id.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    kind: Annotated[
        Literal["cleaned", "flagged", "scores"],
        typer.Option(help="The cleaned data, the flagged samples, or the scores of all samples."),
    ] = "cleaned",
    format: Annotated[Literal["jsonl", "csv", "parquet"], typer.Option(help="The format of the file.")] = "jsonl",
    filter: Annotated[
        Literal["flagged", "confirmed", "not_rejected"] | None,
        typer.Option(
            help="Which samples count as poison: the flagged ones (the default), those that reviewers confirmed, or "
            "those flagged or confirmed that no reviewer rejected."
        ),
    ] = None,
    max_q: Annotated[
        float | None, typer.Option("--max-q", help="Flag at this false discovery rate instead of the audit's.")
    ] = None,
) -> int:
    """Write an audit's cleaned data, its flagged samples or all scores to a file.

    Uses FINETOOTH_URL with FINETOOTH_API_KEY, or a running `finetooth up`; starts nothing.
    """
    from service.cli.export import run_export

    return _guarded(
        lambda: run_export(get_settings(), audit, out, kind=kind, format=format, filter=filter, max_q=max_q)
    )


@app.command()
def report(
    audit: Annotated[str, typer.Argument(help="The audit's id.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; finetooth-report-AUDIT.html by default.")
    ] = None,
) -> int:
    """Write a finished audit's report: one HTML file to read, print and pass on.

    Uses FINETOOTH_URL with FINETOOTH_API_KEY, or a running `finetooth up`; starts nothing.
    """
    from service.cli.report import write_report

    return _guarded(lambda: write_report(get_settings(), audit, out))


@app.command()
def workspaces() -> int:
    """List the workspaces that your key may see: waiting and running audits, storage, and the limits of each."""
    from service.cli.workspaces import print_workspaces

    return _guarded(lambda: print_workspaces(get_settings()))


@app.command("set-limits")
def set_limits(
    workspace: Annotated[str, typer.Argument(help="The workspace's id or name.")],
    max_queued_audits: Annotated[
        str | None, typer.Option(help="The most audits that may wait: a number, or `default`.")
    ] = None,
    max_running_audits: Annotated[
        str | None, typer.Option(help="The most audits that may run at once: a number, or `default`.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(help="The most bytes of uploads, recordings and exports: a number, or `default`.")
    ] = None,
) -> int:
    """Set limits of a workspace, as an admin of the installation; `default` is the limit of the server's settings."""
    from service.cli.workspaces import set_limits as run

    typed = {
        "max_queued_audits": max_queued_audits,
        "max_running_audits": max_running_audits,
        "max_bytes": max_bytes,
    }
    return _guarded(lambda: run(get_settings(), workspace, typed))


@app.command("delete-workspace")
def delete_workspace(
    workspace: Annotated[str, typer.Argument(help="Its id or name.")],
    confirm: Annotated[
        str | None, typer.Option(help="Its name once more; without it nothing is deleted, only told.")
    ] = None,
) -> int:
    """Delete a workspace with everything in it, as an admin of the installation. There is no way back."""
    from service.cli.workspaces import delete

    return _guarded(lambda: delete(get_settings(), workspace, confirm))


@app.command()
def demo() -> int:
    """Audit the bundled dataset with the bundled model, and compare the flags with the poison planted in it."""
    from service.cli.connect import open_server
    from service.cli.demo import run_demo

    return _guarded(lambda: run_demo(lambda report: open_server(get_settings(), report)))


def _audit(
    request: Callable[["Server", Callable[[str], None]], "Request"], out: Path | None, max_flagged: int | None
) -> int:
    from itertools import islice

    from rich.console import Console

    from service.cli.audit import run_audit
    from service.cli.connect import open_server
    from service.cli.invocation import typed
    from service.cli.progress import ProgressDisplay
    from service.cli.results import (
        FINDINGS_FILE,
        SUMMARY_FILE,
        TOP,
        output_console,
        print_summary,
        write_results,
    )

    settings: Settings = get_settings()
    console, errors = output_console(), Console(stderr=True, highlight=False)
    with ProgressDisplay(errors) as progress, open_server(settings, progress.report) as server:
        finished = run_audit(server.client, request(server, progress.report), progress)
        top = list(islice(server.client.findings(finished["id"], limit=TOP), TOP))
        if out is not None:
            progress.report("Writing the results")
            write_results(out, server.client.findings(finished["id"]), finished["summary"])
    print_summary(console, finished, top)
    console.print()
    if out is not None:
        console.print(f"All samples:   {out / FINDINGS_FILE}\nSummary:       {out / SUMMARY_FILE}", markup=False)
    page = f"/audits/{finished['id']}"
    if server.temporary:
        console.print(f"Dashboard:     run {typed('up')}, open the link that it prints, and go to {page}", markup=False)
    else:
        console.print(f"Dashboard:     {server.url}{page}", markup=False)
    flagged = finished["summary"]["flagged"]
    if max_flagged is not None and flagged > max_flagged:
        return _complain(
            f"{flagged} samples are flagged, which is more than --max-flagged {max_flagged} allows", OVER_LIMIT
        )
    return 0


def _act(audit_id: str, act: Literal["cancel", "retry"]) -> int:
    """Use FINETOOTH_URL with FINETOOTH_API_KEY, or a running `finetooth up`; start nothing."""
    from service.cli.connect import open_running_server

    with open_running_server(get_settings()) as server:
        audit = server.client.cancel(audit_id) if act == "cancel" else server.client.retry(audit_id)
    typer.echo(f"{audit['id']} is {audit['status']}: {server.url}/audits/{audit['id']}")
    return 0


def _cancel_all(status: str, created_by: str | None) -> int:
    """Uses FINETOOTH_URL with FINETOOTH_API_KEY, or a running `finetooth up`; starts nothing."""
    from service.cli.connect import open_running_server

    with open_running_server(get_settings()) as server:
        cancelled = server.client.cancel_all(status=status, created_by=created_by)
    for audit_id in cancelled:
        typer.echo(audit_id)
    done = "cancelled" if status == "queued" else "told to stop"
    typer.echo(f"{len(cancelled)} {'audit' if len(cancelled) == 1 else 'audits'} {done}", err=True)
    return 0


def _guarded(run: Callable[[], int]) -> int:
    """Run a command; report a user's mistake or a failure as one line on stderr and an exit code."""
    from service.cli.errors import FAILED, CommandError, refused
    from service.client import ApiError, UnreachableError
    from service.local.interrupts import interruptible

    try:
        with interruptible():
            return run()
    except CommandError as error:
        return _complain(str(error), error.exit_code)
    except ApiError as error:
        failure = refused(error)
        return _complain(str(failure), failure.exit_code)
    except BadSettingsError as error:
        return _complain(str(error), 2)
    except UnreachableError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted; the work that this command had started is cancelled", INTERRUPTED)


def _complain(message: str, code: int) -> int:
    from service.text.visible_text import pieces

    # File names and the service's answers may hold what a terminal would obey.
    safe = "".join(piece.text or f"[{piece.code}]" for piece in pieces(" ".join(message.split())))
    typer.echo(f"finetooth: {safe}", err=True)
    return code
