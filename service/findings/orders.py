"""Orders of a list of findings: the columns that each sorts by, where a cursor stands in it, and what follows.

Every order ends in a column that distinguishes all samples of a list, and runs along one index in one direction, so
that a page deep in the list costs as much as the first one. `q` never falls as the rank rises (contract.ScoreRow), so
an order by q is that by rank. Samples without a z come last, whichever way z runs: a second segment of its order.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self, get_args

from sqlalchemy import REAL, BigInteger, ColumnElement, DateTime, Double, bindparam, cast, tuple_

from service.errors import InvalidCursorError

Sort = Literal["rank", "-rank", "mu", "-mu", "z", "-z", "q", "row", "-row", "reviewed_at", "-reviewed_at"]
"""Names of the orders; with a minus the largest come first."""

SORTS: tuple[Sort, ...] = get_args(Sort)
"""The names of all orders."""

By = Literal["rank", "mu", "z", "row", "decided_at"]
"""The column that an order sorts by first."""

_BY: dict[str, By] = {"q": "rank", "reviewed_at": "decided_at"}
"""The columns of names that are not columns themselves."""
_TYPES: dict[By, Any] = {"mu": Double, "z": REAL, "decided_at": DateTime(timezone=True)}
"""Types of first columns whose values would be compared as another type."""


@dataclass(frozen=True)
class Order:
    """One of the orders in SORTS."""

    by: By
    descending: bool
    name: Sort = "rank"

    @classmethod
    def of(cls, sort: Sort) -> Self:
        """Return the order of this name."""
        plain = sort.removeprefix("-")
        return cls(_BY.get(plain, plain), sort.startswith("-"), sort)  # type: ignore[arg-type]

    @property
    def unique(self) -> bool:
        """Whether the first column alone distinguishes samples."""
        return self.by in ("rank", "row")

    @property
    def nullable(self) -> bool:
        """Whether samples without a value form a second segment, by row."""
        return self.by == "z"

    def columns(self, table: Any, *, without_value: bool = False) -> list[ColumnElement[Any]]:
        """Return the columns that a segment is sorted by, each with its direction.

        Args:
            table: `scores`, or a selection of it.
            without_value: True for the segment of samples without a value.
        """
        first = [] if without_value else [getattr(table, self.by)]
        columns = first if self.unique else [*first, table.row]
        return [column.desc() if self.descending else column.asc() for column in columns]

    def behind(self, table: Any, position: "Position", *, without_value: bool = False) -> ColumnElement[bool]:
        """Return the condition for samples that follow the position in its own segment.

        Args:
            table: `scores`, or a selection of it.
            position: The position.
            without_value: True for the segment of samples without a value.
        """
        row = bindparam("after_row", position.row, BigInteger)
        if without_value or self.by == "row":
            return self._further(table.row, row)
        if self.by == "rank":
            return self._further(table.rank, bindparam("after_value", position.value, BigInteger))
        # Back to the database's float4: as a float8 it would be a different number.
        value = cast(bindparam("after_value", position.value), _TYPES[self.by])
        return self._further(tuple_(getattr(table, self.by), table.row), tuple_(value, row))

    def _further(self, column: Any, bound: Any) -> ColumnElement[bool]:
        further: ColumnElement[bool] = column < bound if self.descending else column > bound
        return further

    def segment(self, table: Any, *, without_value: bool) -> ColumnElement[bool] | None:
        """Return the condition that selects a segment; None if the order has only one.

        Args:
            table: `scores`, or a selection of it.
            without_value: True for the segment of samples without a value.
        """
        if not self.nullable:
            return None
        column = getattr(table, self.by)
        return column.is_(None) if without_value else column.is_not(None)

    def position(self, value: Any, row: int) -> "Position":
        """Return the position of a sample.

        Args:
            value: The sample's value in the first column.
            row: The sample's row.
        """
        return Position(self, value, row)

    @property
    def reversed(self) -> "Order":
        """The order from its other end; samples without a value stay last."""
        plain = "rank" if self.name == "q" else self.name
        return Order.of(plain[1:] if plain.startswith("-") else f"-{plain}")  # type: ignore[arg-type]

    def parse(self, cursor: str) -> "Position":
        """Return the position that a cursor names.

        Raises:
            InvalidCursorError: It is not a cursor of a list in this order.
        """
        name, _, rest = cursor.partition("|")
        text, _, row = rest.rpartition("|")
        if name != self.name or not row.isdecimal() or len(row) > 19 or int(row) >= 2**63:
            raise InvalidCursorError
        try:
            value = self._value(text)
        except ValueError:
            raise InvalidCursorError from None
        return Position(self, value, int(row))

    def _value(self, text: str) -> Any:
        if self.by == "row":
            if text:
                raise ValueError
            return None
        if self.by == "rank":
            if not text.isdecimal() or len(text) > 18:
                raise ValueError
            return int(text)
        if self.by == "decided_at":
            return _aware(datetime.fromisoformat(text))
        if self.nullable and text == "":
            return None
        value = float(text)
        if value != value or abs(value) > (3.4e38 if self.by == "z" else 1.7e308):
            raise ValueError
        return value


@dataclass(frozen=True)
class Position:
    """A place in an order, directly after a sample."""

    order: Order
    value: Any
    """The sample's value in the first column; None in the second segment, and if the order is by row."""
    row: int

    @property
    def without_value(self) -> bool:
        """Whether the position lies in the second segment."""
        return self.order.nullable and self.value is None

    @property
    def cursor(self) -> str:
        """The position as an ASCII string that also names its order."""
        value = self.value.isoformat() if isinstance(self.value, datetime) else self.value
        shown = "" if value is None or self.order.by == "row" else str(value)
        return f"{self.order.name}|{shown}|{self.row}"


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time
