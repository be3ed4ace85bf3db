"""Which findings a page is about, by its address: the filters and the order of the API, as a form sends them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from pydantic import ValidationError

from service.findings.filters import Filter
from service.http.problems.problem import Problem
from service.web.pages.page import query_string

PageSort = Literal["rank", "-mu", "mu", "row", "-reviewed_at"]
"""The orders that a page offers: those of the API that a reviewer reads along."""

SORT_LABELS: dict[PageSort, str] = {
    "rank": "most suspicious first",
    "-mu": "largest mu first",
    "mu": "smallest mu first",
    "row": "as in the dataset",
    "-reviewed_at": "last reviewed first",
}


@dataclass(frozen=True)
class FindingList:
    """A list of findings, as an address names it."""

    wanted: Filter
    sort: PageSort
    fields: dict[str, str]
    """What the address says, by the names of Filter and `sort`; nothing that is empty."""

    def query(self, **changes: str | None) -> str:
        """Write the address's query with changes, from its `?` on; None leaves a field out, and nothing is empty."""
        return query_string(self.fields | changes)

    @property
    def narrowed(self) -> bool:
        """Whether it holds less than all samples."""
        return bool(set(self.fields) - {"sort", "probe"})


def read_list(fields: dict[str, str]) -> FindingList:
    """Read a list from fields of an address or of a form; empty ones, as forms send them, count as left out.

    Raises:
        Problem: 422 `invalid_request`, which names the field that no list can be asked by.
    """
    given = {name: fields[name] for name in (*Filter.model_fields, "sort") if fields.get(name)}
    sort = next((known for known in SORT_LABELS if known == given.get("sort", "rank")), None)
    if sort is None:
        raise Problem(422, "invalid_request", f"Findings can be sorted by {', '.join(SORT_LABELS)}, and not by this.")
    try:
        wanted = Filter.model_validate({name: value for name, value in given.items() if name != "sort"})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", " ")
        raise Problem(422, "invalid_request", f"This {name} cannot be asked for: {first['msg']}.") from error
    return FindingList(wanted, sort, given)


def _of_address(request: Request) -> FindingList:
    return read_list(dict(request.query_params))


FindingListDep = Annotated[FindingList, Depends(_of_address)]
