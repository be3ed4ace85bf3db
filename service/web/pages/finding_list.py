"""Which findings a page is about, by its address, and the names that a page gives to orders and columns."""

from typing import Annotated

from fastapi import Depends, Request

from service.findings.list_address import LIST_SORTS, Column, FindingList, read_list
from service.findings.orders import Sort

SORT_LABELS: dict[Sort, str] = {
    "rank": "most suspicious first",
    "-rank": "least suspicious first",
    "-mu": "largest mu first",
    "mu": "smallest mu first",
    "-z": "largest Z first",
    "z": "smallest Z first",
    "row": "as in the dataset",
    "-row": "from the dataset's end",
    "-reviewed_at": "last reviewed first",
    "reviewed_at": "first reviewed first",
}
"""What the page calls each order."""

assert set(SORT_LABELS) == set(LIST_SORTS)

COLUMN_LABELS: dict[Column, str] = {
    "rank": "rank",
    "mu": "mu with its interval",
    "z": "Z",
    "p": "p",
    "q": "q",
    "flag": "flag",
    "side": "side",
    "group": "group",
    "cluster": "near-duplicate of",
    "n": "observations",
    "tokens_left_out": "tokens not measured",
    "mu_composed": "composed mu",
    "z_reference": "Z toward the reference",
    "z_gradient": "Z by gradients",
    "z_representation": "Z by representations",
    "probability_unwanted": "probability unwanted",
    "probability_fair": "probability fair",
    "verdict": "verdict",
    "reviewed_at": "reviewed",
}
"""What the page calls each column."""


def _of_address(request: Request) -> FindingList:
    return read_list(request.query_params.multi_items())


FindingListDep = Annotated[FindingList, Depends(_of_address)]
