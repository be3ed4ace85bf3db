"""How files spell yes and no."""

from typing import Any

import pytest

from service.contract.flags import flag_of


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "TRUE", " True", "1", "yes", "Yes"])
def test_yes(value: Any) -> None:
    assert flag_of(value) is True


@pytest.mark.parametrize("value", [False, 0, 0.0, "false", "False", "0", "no", "NO "])
def test_no(value: Any) -> None:
    assert flag_of(value) is False


@pytest.mark.parametrize("value", [None, "", "maybe", "2", 2, -1, 0.5, [True], {"true": 1}])
def test_neither(value: Any) -> None:
    assert flag_of(value) is None
