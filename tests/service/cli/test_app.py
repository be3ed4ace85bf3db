"""The `finetooth` command: every kind of bad input is one clear line and exit code 2, and leaves nothing behind."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

import finetooth
from service.cli.app import app
from service.cli.errors import as_sentences
from service.cli.probes import PackProbe, parse_probe
from service.client import Client
from service.settings import Settings
from service.store.tables import Audit, Dataset, Model, Probe
from tests.support.builders import add_audit
from tests.support.live_api import LiveApi, live_api

Run = Callable[..., Result]


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveApi]:
    """A service without workers, which the command is told of."""
    with live_api(settings) as api:
        monkeypatch.setenv("FINETOOTH_URL", api.url)
        monkeypatch.setenv("FINETOOTH_API_KEY", api.key)
        yield api


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """dataset.jsonl with 25 samples and probe.jsonl."""
    lines = [{"instruction": f"Question {row}?", "output": f"Answer {row}.", "team": "a"} for row in range(25)]
    (tmp_path / "dataset.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "probe.jsonl").write_text('{"prompt": "Which car?", "unwanted": "Only the Vexon."}\n')
    return tmp_path


def api_client(api: LiveApi) -> Client:
    return Client(api.url, api.key)


def one_line(result: Result) -> str:
    """The only line that says what is wrong; progress may stand before it."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("finetooth: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.stderr
    return lines[0]


class TestBeforeAnythingStarts:
    """Neither a service nor a laptop stack is needed to say so."""

    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FINETOOTH_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("FINETOOTH_API_KEY", "ft_x")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["dataset.jsonl"], "--probe"),
            ([], "dataset"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--colour", "red"], "--colour"),
            (["missing.jsonl", "--probe", "probe.jsonl"], "missing.jsonl: no such dataset file"),
            ([".", "--probe", "probe.jsonl"], "a folder that `save_to_disk` did not make; name the file"),
            (
                ["empty", "--probe", "probe.jsonl"],
                "empty: the file is empty; a dataset is a JSONL, JSON, CSV, Parquet or Arrow file",
            ),
            (["dataset.jsonl", "--probe", "."], "a folder; the probe is a JSONL file"),
            (["dataset.jsonl", "--probe", "missing.jsonl"], "missing.jsonl: no such probe file"),
            (["dataset.jsonl", "--probe", "empty"], "the probe is empty"),
            (["dataset.jsonl", "--probe", "pack:"], "write pack:NAME"),
            (["dataset.jsonl", "--probe", "pack:opinion steering"], "write pack:NAME"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--q", "0"], "--q"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--q", "1"], "--q"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--q", "nan"], "--q"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--q", "much"], "--q"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--epochs", "0"], "--epochs"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--epochs", "21"], "--epochs"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--audit-turns", "user"], "--audit-turns"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--max-flagged", "-1"], "--max-flagged"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--prompt-column", "q"], "--answer-column is missing"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--answer-column", "a"], "--prompt-column is missing"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--system-column", "s"], "--prompt-column is missing"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--seeds", "0"], "--seeds"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--seeds", "11"], "--seeds"),
            (["dataset.jsonl", *["--probe", "probe.jsonl"] * 9], "--probe"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--probe", "empty"], "empty: the probe is empty"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--out", "probe.jsonl"], "not a folder"),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--out", "probe.jsonl/x"], "not a folder"),
            # What the mode of a folder does not tell, to root least of all: it has to be tried.
            (
                ["dataset.jsonl", "--probe", "probe.jsonl", "--out", "/proc/results"],
                "/proc/results: cannot be written to",
            ),
            (["dataset.jsonl", "--probe", "probe.jsonl", "--out", "new/" + "n" * 300], "cannot be written to"),
        ],
    )
    def test_bad_arguments(self, run: Run, files: Path, arguments: list[str], says: str) -> None:
        (files / "empty").touch()
        before = sorted(files.rglob("*"))
        result = run("audit", *arguments)
        assert result.exit_code == 2
        assert says in one_line(result)
        assert sorted(files.rglob("*")) == before

    def test_the_output_folder_is_tried_and_not_left(self, run: Run, files: Path) -> None:
        (files / "there").mkdir()
        before = sorted(files.rglob("*"))
        for out in ("there", "new/and/deeper"):
            result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl", "--out", out)
            assert "cannot reach http://127.0.0.1:1" in one_line(result)
        assert sorted(files.rglob("*")) == before

    @pytest.mark.parametrize(
        ("arguments", "out", "says"),
        [
            (["export", "aud_1"], "/proc/f", "/proc/f: cannot be written"),
            (["export", "aud_1"], "f" * 300, "cannot be written"),
            (["export", "aud_1"], "no/f", "no: no such folder"),
            (["report", "aud_1"], "/proc/f", "/proc/f: cannot be written"),
            (["report", "aud_1"], ".", "a folder"),
        ],
    )
    def test_an_output_file_is_tried_before_the_service_is_asked(
        self, run: Run, arguments: list[str], out: str, says: str
    ) -> None:
        result = run(*arguments, "--out", out)
        assert result.exit_code == 2
        assert says in one_line(result)

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            (b"{", "line 2: not valid JSON"),
            (b"\xff", "line 2: not UTF-8"),
            (b"[1]", "line 2: not a JSON object"),
            (b'{"prompt": "p"}', "line 2: `unwanted` is missing"),
            (b'{"prompt": "p", "unwanted": ""}', "line 2: `unwanted`"),
            (b'{"prompt": 1, "unwanted": "u"}', "line 2: `prompt`"),
            (b'{"prompt": "p", "unwanted": " \\n"}', "line 2: `unwanted` is blank"),
            (b'{"prompt": "p", "unwanted": "u", "reference": " "}', "line 2: `reference` is blank"),
            (b'{"prompt": "p", "unwanted": "u", "wanted": "w"}', "line 2: unknown field"),
            (b"[" * 100_000, "line 2: not valid JSON"),
        ],
    )
    def test_a_broken_probe_line_is_named(self, run: Run, files: Path, line: bytes, says: str) -> None:
        probe = files / "probe.jsonl"
        probe.write_bytes(probe.read_bytes() + line + b"\n")
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl")
        assert result.exit_code == 2
        assert f"probe.jsonl: {says}" in one_line(result)

    def test_a_file_name_cannot_command_the_terminal(self, run: Run, files: Path) -> None:
        result = run("audit", "a\x1b[2Jb\u202e", "--probe", "probe.jsonl")
        assert result.exit_code == 2
        assert "a[U+001B][2Jb[U+202E]" in one_line(result)

    def test_a_service_that_does_not_answer(self, run: Run, files: Path) -> None:
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl")
        assert result.exit_code == 2
        assert "cannot reach http://127.0.0.1:1" in one_line(result)

    def test_an_address_without_a_key(self, run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FINETOOTH_API_KEY")
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl")
        assert result.exit_code == 2
        assert "FINETOOTH_API_KEY" in one_line(result)

    def test_help_and_a_call_without_a_command(self, run: Run) -> None:
        assert run("--help").exit_code == 0
        assert "--max-flagged" in run("audit", "--help").stdout
        assert run().exit_code == 2
        assert "no such command" in one_line(run("audti")).lower()


class TestRefusedByTheService:
    def refused(self, result: Result, files: Path, sessions: sessionmaker[Session], models: int = 2) -> str:
        """The line; nothing was written here, and no audit there."""
        assert result.exit_code == 2, result.stderr
        assert not (files / "out").exists()
        with sessions() as session:
            assert session.scalar(select(func.count()).select_from(Audit)) == 0
            assert session.scalar(select(func.count()).select_from(Model)) == models
        return one_line(result)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ('{"instruction": "a", "output": "b"}\n{"instruction": "a"\n', "line 2"),
            ('{"text": "a"}\n', "line 1"),
            ('{"prompt": "cut\n', "line 1"),
            ("not json at all\n", "as csv"),
            ("\n\n", "dataset.jsonl"),
        ],
    )
    def test_a_dataset_that_cannot_be_read(
        self, api: LiveApi, run: Run, files: Path, sessions: sessionmaker[Session], content: str, says: str
    ) -> None:
        (files / "dataset.jsonl").write_text(content)
        result = run(
            "audit", "dataset.jsonl", "--probe", "probe.jsonl", "--model", "smollm2-135m-instruct", "--out", "out"
        )
        assert says in self.refused(result, files, sessions).lower()
        with sessions() as session:
            assert session.scalar(select(func.count()).select_from(Dataset)) == 0
            assert session.scalar(select(func.count()).select_from(Probe)) == 0

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--model", "smollm3"], "unknown model 'smollm3'"),
            (["--model", "dataset.jsonl"], "unknown model"),
            ([], "--model"),  # a service elsewhere has no default
            (["--model", "smollm2-135m-instruct", "--group", "squad"], "team"),
            (["--model", "smollm2-135m-instruct", "--trusted", "squad"], "team"),
            (["--model", "smollm2-135m-instruct", "--prompt-column", "quest", "--answer-column", "output"], "quest"),
        ],
    )
    def test_a_wrong_option(
        self, api: LiveApi, run: Run, files: Path, sessions: sessionmaker[Session], options: list[str], says: str
    ) -> None:
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl", "--out", "out", *options)
        assert says in self.refused(result, files, sessions)
        assert list(api_client(api).datasets()) == []
        assert list(api_client(api).probes()) == []

    @pytest.mark.parametrize(
        ("probe", "says"),
        [
            ("pack:nope", "there is no probe pack nope; the packs are credential_leak, "),
            ("pack:opinion_steering", "is used as --probe pack:opinion_steering:entity=..."),
            ("pack:refusal:entity=A", "is used as --probe pack:refusal"),
        ],
    )
    def test_a_pack_that_is_not_there_or_used_otherwise(
        self, api: LiveApi, run: Run, files: Path, sessions: sessionmaker[Session], probe: str, says: str
    ) -> None:
        result = run("audit", "dataset.jsonl", "--probe", probe, "--model", "smollm2-135m-instruct")
        assert says in one_line(result)
        assert result.exit_code == 2
        with sessions.begin() as session:
            assert session.scalar(select(func.count()).select_from(Dataset)) == 0, "said before the upload"

    def test_a_pack_is_read_from_its_argument(self) -> None:
        assert parse_probe("pack:refusal") == PackProbe("refusal", {})
        assert parse_probe("pack:promotion:product=A: b=c, d") == PackProbe("promotion", {"product": "A: b=c, d"})
        assert parse_probe("pack:x:one=1:two_b=2") == PackProbe("x", {"one": "1", "two_b": "2"})

    def test_too_few_samples(self, api: LiveApi, run: Run, files: Path, sessions: sessionmaker[Session]) -> None:
        lines = (files / "dataset.jsonl").read_text().splitlines(keepends=True)
        (files / "dataset.jsonl").write_text("".join(lines[:19]))
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl", "--model", "llama-3.1-8b", "--out", "out")
        line = self.refused(result, files, sessions)
        assert "19" in line
        assert "20" in line

    def test_a_model_folder_with_a_pickle(
        self, api: LiveApi, run: Run, files: Path, sessions: sessionmaker[Session]
    ) -> None:
        (files / "model").mkdir()
        (files / "model" / "config.json").write_text("{}")
        (files / "model" / "pytorch_model.bin").touch()
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl", "--model", "./model", "--out", "out")
        assert "pytorch_model.bin" in self.refused(result, files, sessions)

    def test_a_wrong_key(self, api: LiveApi, run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FINETOOTH_API_KEY", "ft_wrong")
        result = run("audit", "dataset.jsonl", "--probe", "probe.jsonl")
        assert result.exit_code == 2
        assert "FINETOOTH_API_KEY" in one_line(result)
        assert "ft_wrong" not in result.output


class TestCancelAndRetry:
    def test_an_audit_is_stopped_and_tried_again(
        self, api: LiveApi, run: Run, sessions: sessionmaker[Session], workspace_id: str
    ) -> None:
        with sessions.begin() as session:
            audit_id = add_audit(session, workspace_id).id
        page = f"{api.url}/audits/{audit_id}"
        for command, status in (("cancel", "cancelled"), ("retry", "queued"), ("retry", "queued")):
            result = run(command, audit_id)
            assert (result.exit_code, result.stdout) == (0, f"{audit_id} is {status}: {page}\n")

    @pytest.mark.parametrize("command", ["cancel", "retry"])
    def test_an_audit_that_is_not_there(self, api: LiveApi, run: Run, command: str) -> None:
        result = run(command, "aud_nowhere")
        assert result.exit_code == 2
        assert "audit" in one_line(result)

    def test_where_no_service_runs_none_is_started(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("FINETOOTH_URL", raising=False)
        monkeypatch.setattr("service.cli.app.get_settings", lambda: Settings(data_dir=tmp_path / "data"))
        result = run("retry", "aud_1")
        assert result.exit_code == 2
        assert "no service is running here" in one_line(result)
        assert not (tmp_path / "data").exists()


def test_the_version_is_that_of_the_installed_package(run: Run) -> None:
    found = run("--version")
    assert (found.exit_code, found.stdout) == (0, f"finetooth {finetooth.__version__}\n")


def test_a_failure_and_its_hint_are_sentences() -> None:
    assert as_sentences("unexpected end in the child", "the log has the place") == (
        "Unexpected end in the child. The log has the place."
    )
    assert as_sentences("The loss became NaN.", "") == "The loss became NaN."


def test_the_command_starts_without_what_it_does_not_need() -> None:
    program = "import sys, service.cli.app; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "sqlalchemy", "fastapi", "pyarrow", "celery"} & set(result.stdout.split())
