"""Results with made-up numbers, for pages and charts."""

from collections.abc import Callable

import pytest

from service.contract.results import ProbeSummary, Summary
from tests.support.summaries import make_probe_summary, make_summary


@pytest.fixture
def summary_of() -> Callable[..., Summary]:
    return make_summary


@pytest.fixture
def probe_of() -> Callable[..., ProbeSummary]:
    return make_probe_summary
