"""Results with made-up numbers, for pages and charts."""

from collections.abc import Callable
from typing import Any

import pytest

from service.contract import Histogram, NullFit, Summary


def make_summary(**changes: Any) -> Summary:
    """340 samples, 21 flagged, in 8 bins of width 1 from -3 to 5; the threshold 2.5 cuts a bin."""
    values: dict[str, Any] = {
        "rows": 340,
        "rows_scored": 340,
        "rows_truncated": 2,
        "flagged": 21,
        "q": 0.05,
        "threshold_z": 2.5,
        "null": NullFit(location=0.1, scale=0.9, degrees_of_freedom=15.0),
        "histogram": Histogram(edges=(-3, -2, -1, 0, 1, 2, 3, 4, 5), counts=(7, 45, 110, 115, 40, 8, 10, 5)),
        "steps": 85,
        "tokens": 41_234,
        "train_loss_first": 2.61,
        "train_loss_last": 1.72,
        "probe_loss_first": 3.43,
        "probe_loss_last": 2.24,
        "probe_items": 8,
        "has_reference": True,
        "device": "cpu",
        "seconds": {"training": 201.5},
    }
    return Summary(**(values | changes))


@pytest.fixture
def summary_of() -> Callable[..., Summary]:
    return make_summary
