"""A list of findings in the query of a URL: the filters of the API, an order, and the columns to show."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlencode

from pydantic import ValidationError

from service.errors import InvalidError
from service.findings.filters import Filter
from service.findings.orders import SORTS, Sort

Column = Literal[
    "rank", "mu", "z", "p", "q", "flag", "side", "group", "cluster", "n", "tokens_left_out", "mu_composed",
    "z_reference", "z_gradient", "z_representation", "probability_unwanted", "probability_fair", "verdict",
    "reviewed_at",
]  # fmt: skip
"""Columns that a list can show beside the sample itself, from left to right."""

COLUMNS: tuple[Column, ...] = get_args(Column)
"""All columns, from left to right."""
DEFAULT_COLUMNS: tuple[Column, ...] = ("rank", "mu", "z", "q", "flag", "verdict")
"""Columns of a list whose address names none."""

LIST_SORTS: tuple[Sort, ...] = tuple(sort for sort in SORTS if sort != "q")
"""Orders that a list offers; an order by q is that by rank."""


@dataclass(frozen=True)
class FindingList:
    """A list of findings, as the query of a URL describes it."""

    wanted: Filter
    sort: Sort
    columns: tuple[Column, ...]
    fields: dict[str, str]
    """What the query says, by the names of Filter, `sort` and `columns`, without empty values."""

    def query(self, **changes: str | None) -> str:
        """Return the query with changes, including its `?`; None removes a field. Without any field it is ""."""
        query = urlencode({name: value for name, value in (self.fields | changes).items() if value}, safe=",")
        return f"?{query}" if query else ""

    @property
    def narrowed(self) -> bool:
        """Whether the list holds fewer than all samples."""
        return bool(set(self.fields) - {"sort", "probe", "columns"})


def read_list(given: Iterable[tuple[str, str]]) -> FindingList:
    """Read a list from the fields of a query or a form; empty ones, as forms send them, count as missing.

    Args:
        given: Names and values; names that a list does not have are ignored. `columns` may occur several times.

    Raises:
        InvalidError: `invalid_request`, naming the field that is not valid.
    """
    said: dict[str, str] = {}
    chosen: list[str] = []
    for name, value in given:
        if name == "columns":
            chosen += [column for column in value.split(",") if column]
        elif value:
            said[name] = value
    fields = {name: said[name] for name in (*Filter.model_fields, "sort") if name in said}
    sort = next((known for known in LIST_SORTS if known == said.get("sort", "rank")), None)
    if sort is None:
        raise InvalidError("invalid_request", f"Findings can be sorted by {', '.join(LIST_SORTS)}, and not by this.")
    if unknown := set(chosen) - set(COLUMNS):
        names = ", ".join(repr(name[:40]) for name in sorted(unknown)[:3])
        detail = f"No column is called {names}. There are {', '.join(COLUMNS)}."
        raise InvalidError("invalid_request", detail)
    columns = tuple(column for column in COLUMNS if column in chosen) or DEFAULT_COLUMNS
    if columns != DEFAULT_COLUMNS:
        fields["columns"] = ",".join(columns)
    try:
        wanted = Filter.model_validate({name: fields[name] for name in Filter.model_fields if name in fields})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", " ")
        raise InvalidError("invalid_request", f"This {name} cannot be asked for: {first['msg']}.") from error
    return FindingList(wanted, sort, columns, fields)


def read_query(query: str) -> FindingList:
    """Read a list from the query of a URL, with or without its `?`.

    Raises:
        InvalidError: `invalid_request`: it is not a query, or has a field or value that a list does not have.
    """
    try:
        given = parse_qsl(query.removeprefix("?"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise InvalidError("invalid_request", "This is no query of an address.") from error
    for name, _ in given:
        if name not in (*Filter.model_fields, "sort", "columns", "limit", "after", "bulk"):
            known = ", ".join((*Filter.model_fields, "sort", "columns"))
            detail = f"A list of findings has no field {name[:40]!r}. It has {known}."
            raise InvalidError("invalid_request", detail, errors={"#/query": "has an unknown field"})
    return read_list(given)
