"""Charts are drawn by few at a time, once each, and while no connection to the database is held for them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI

from service.web import charts, evidence_charts
from service.web.painting import PAINTERS
from tests.support.pages import SignIn


class Drawings:
    """What was drawn: how many, how many at once at most, and with how many connections in use."""

    def __init__(self, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.most = self._now = 0
        self.connections: list[int] = []
        self._pool = app.state.engine.pool
        self._lock = threading.Lock()
        for module in (charts, evidence_charts):
            monkeypatch.setattr(module, "to_svg", self._watched(module.to_svg))

    def _watched(self, draw: Callable[..., str]) -> Callable[..., str]:
        def watched(*arguments: Any) -> str:
            with self._lock:
                self.count += 1
                self._now += 1
                self.most = max(self.most, self._now)
                self.connections.append(self._pool.checkedout())
            try:
                return draw(*arguments)
            finally:
                with self._lock:
                    self._now -= 1

        return watched


@pytest.fixture
def drawings(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Drawings:
    return Drawings(app, monkeypatch)


@pytest.mark.parametrize("name", ["histogram", "calibration", "drift"])
def test_a_published_chart_is_drawn_once_and_without_a_connection(
    sign_in: SignIn, published: str, drawings: Drawings, name: str
) -> None:
    client = sign_in()
    first = client.get(f"/audits/{published}/{name}.svg")
    assert first.status_code == 200
    assert (drawings.count, drawings.connections) == (1, [0])
    assert client.get(f"/audits/{published}/{name}.svg").text == first.text
    assert drawings.count == 1
    client.get(f"/audits/{published}/{name}.svg?scheme=dark")
    assert drawings.count == 2


def test_a_chart_that_was_drawn_is_shown_to_nobody_else(
    sign_in: SignIn, published: str, make_client: Callable[..., Any], other_workspace_id: str
) -> None:
    assert sign_in().get(f"/audits/{published}/histogram.svg").status_code == 200
    other = make_client("admin", workspace=other_workspace_id)
    assert other.get(f"/audits/{published}/histogram.svg").status_code == 404


def test_few_charts_are_drawn_at_a_time(sign_in: SignIn, published: str, drawings: Drawings) -> None:
    client = sign_in()
    names = [
        f"{name}.svg?scheme={scheme}" for name in ("histogram", "calibration", "drift") for scheme in ("light", "dark")
    ]
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: client.get(f"/audits/{published}/{name}").status_code, names))
    assert answers == [200] * len(names)
    assert drawings.count == len(names)
    assert drawings.most <= PAINTERS
