"""Orders of a list of findings: what each sorts by, where a cursor stands in it, and what follows.

Every order ends in a column that tells all samples of a list apart, and runs along one index in one direction, so that
a page deep in the list costs what the first one does. `q` never falls as the rank rises (contract.ScoreRow), so an
order by q is that by rank. Samples without a z come last, whichever way z runs: a second segment of its order.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self, get_args

from sqlalchemy import REAL, BigInteger, ColumnElement, DateTime, Double, bindparam, cast, tuple_

from service.errors import InvalidCursorError

Sort = Literal["rank", "-rank", "mu", "-mu", "z", "-z", "q", "row", "-row", "reviewed_at", "-reviewed_at"]
"""A minus: the largest first."""

SORTS: tuple[Sort, ...] = get_args(Sort)

By = Literal["rank", "mu", "z", "row", "decided_at"]
"""The column that an order runs along first."""

_BY: dict[str, By] = {"q": "rank", "reviewed_at": "decided_at"}
_TYPES: dict[By, Any] = {"mu": Double, "z": REAL, "decided_at": DateTime(timezone=True)}


@dataclass(frozen=True)
class Order:
    """One of SORTS."""

    by: By
    descending: bool
    name: Sort = "rank"

    @classmethod
    def of(cls, sort: Sort) -> Self:
        """The order of that name."""
        plain = sort.removeprefix("-")
        return cls(_BY.get(plain, plain), sort.startswith("-"), sort)  # type: ignore[arg-type]

    @property
    def unique(self) -> bool:
        """Whether the first column alone tells samples apart."""
        return self.by in ("rank", "row")

    @property
    def nullable(self) -> bool:
        """Whether samples without a value form a second segment, by row."""
        return self.by == "z"

    def columns(self, table: Any, *, without_value: bool = False) -> list[ColumnElement[Any]]:
        """What a segment is sorted by."""
        first = [] if without_value else [getattr(table, self.by)]
        columns = first if self.unique else [*first, table.row]
        return [column.desc() if self.descending else column.asc() for column in columns]

    def behind(self, table: Any, position: "Position", *, without_value: bool = False) -> ColumnElement[bool]:
        """What follows the position in its own segment."""
        row = bindparam("after_row", position.row, BigInteger)
        if without_value or self.by == "row":
            return self._further(table.row, row)
        if self.by == "rank":
            return self._further(table.rank, bindparam("after_value", position.value, BigInteger))
        # The database's own float4 again: as a float8 it would be another number.
        value = cast(bindparam("after_value", position.value), _TYPES[self.by])
        return self._further(tuple_(getattr(table, self.by), table.row), tuple_(value, row))

    def _further(self, column: Any, bound: Any) -> ColumnElement[bool]:
        further: ColumnElement[bool] = column < bound if self.descending else column > bound
        return further

    def segment(self, table: Any, *, without_value: bool) -> ColumnElement[bool] | None:
        """Which samples a segment holds; None: all."""
        if not self.nullable:
            return None
        column = getattr(table, self.by)
        return column.is_(None) if without_value else column.is_not(None)

    def position(self, value: Any, row: int) -> "Position":
        """Where a sample stands: `value` is what it has in the first column."""
        return Position(self, value, row)

    @property
    def reversed(self) -> "Order":
        """The same order from its other end; samples without a value stay last."""
        plain = "rank" if self.name == "q" else self.name
        return Order.of(plain[1:] if plain.startswith("-") else f"-{plain}")  # type: ignore[arg-type]

    def parse(self, cursor: str) -> "Position":
        """Find the position that a cursor names.

        Raises:
            InvalidCursorError: It is no cursor of a list in this order.
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
    """A place in an order, right behind a sample."""

    order: Order
    value: Any
    """Of the first column; None in the second segment, and where the order is by row."""
    row: int

    @property
    def without_value(self) -> bool:
        """Whether it lies in the second segment."""
        return self.order.nullable and self.value is None

    @property
    def cursor(self) -> str:
        """ASCII; it names its sort."""
        value = self.value.isoformat() if isinstance(self.value, datetime) else self.value
        shown = "" if value is None or self.order.by == "row" else str(value)
        return f"{self.order.name}|{shown}|{self.row}"


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time
