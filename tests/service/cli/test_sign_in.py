"""`finetooth sign-in`."""

from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli.app import app
from service.local.lock import DataFolderLock
from service.settings import Settings, get_settings
from tests.support.live_api import LiveApi, live_api
from tests.support.pages import press_sign_in


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command finds the settings of the stack in the environment."""
    assert settings.database_url is not None
    monkeypatch.setenv("FINETOOTH_DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("FINETOOTH_DATA_DIR", str(settings.data_dir))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def call() -> Result:
    return CliRunner().invoke(app, ["sign-in"])


@pytest.fixture
def stack(settings: Settings) -> Iterator[LiveApi]:
    """What the lock of the data folder says is a running stack."""
    settings.data_dir.mkdir(exist_ok=True)
    lock = DataFolderLock(settings.data_dir)
    lock.acquire()
    with live_api(settings) as api:
        lock.publish(api.url)
        yield api
    lock.release()


@pytest.mark.usefixtures("run")
class TestSignIn:
    def test_each_call_prints_a_link_that_signs_in_once(self, stack: LiveApi) -> None:
        links = []
        for _ in range(2):
            result = call()
            assert result.exit_code == 0, result.stderr
            (link,) = result.stdout.splitlines()
            assert link.startswith(f"{stack.url}/sign-in?token=")
            assert "once, within 30 minutes" in result.stderr
            links.append(link)
        assert len(set(links)) == 2
        for link in links:
            with httpx.Client() as browser:
                assert press_sign_in(browser, link).status_code == 303
                assert browser.get(f"{stack.url}/audits").status_code == 200
                assert press_sign_in(browser, link).status_code == 403

    def test_where_no_stack_runs_one_line_says_what_to_do(self, settings: Settings) -> None:
        result = call()
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert f"no `finetooth up` is running on {settings.data_dir}" in result.stderr


def test_help_lists_it_in_plain_words() -> None:
    assert "Print a new one-time sign-in link" in CliRunner().invoke(app, ["--help"]).stdout
