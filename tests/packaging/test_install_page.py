"""What docs/install.md says of extras is what pyproject.toml declares."""

import re
import sys

import pytest

from tests.support.compose import ROOT
from tests.support.requirements import EXTRAS, brought_along, declared

PAGE = (ROOT / "docs" / "install.md").read_text()
TOLD = re.compile(r"pip install \\?['\"]finetooth\[([\w,]+)\]")
COUNTED = {
    found[1]: int(found[2])
    for line in PAGE.splitlines()
    if (found := re.match(r"\| [^|]+ \| `pip install 'finetooth\[([\w,]+)\]'` \| [^|]+ \| (\d+) \|$", line))
}


def test_every_extra_that_is_told_of_exists() -> None:
    texts = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("finetooth/*.py"),
        *ROOT.glob("service/**/*.py"),
    ]
    told = {extra for path in texts for names in TOLD.findall(path.read_text()) for extra in names.split(",")}
    assert told == set(EXTRAS) - {"dev"}


def test_the_page_has_every_extra_that_stands_alone() -> None:
    assert {"client", "recorder", "statistics", "trainer", "service", "worker", "local,worker"} == set(COUNTED)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the page counts the wheels of Python 3.11")
@pytest.mark.parametrize("extras", COUNTED)
def test_the_page_counts_the_wheels_that_are_installed(extras: str) -> None:
    assert len(brought_along(declared(*extras.split(",")))) + 1 == COUNTED[extras]
