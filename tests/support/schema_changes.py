"""What a newer schema asks of code that knows an older one, by the catalogs of a real Postgres."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

COLUMNS = """
    SELECT attrelid::regclass::text AS relation, attname AS name, relkind::text AS kind,
        format_type(atttypid, atttypmod) AS type, attnotnull AS required,
        atthasdef OR attidentity <> '' OR attgenerated <> '' AS has_value
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname IN ('public', 'bi') AND relkind IN ('r', 'p', 'v', 'm') AND attnum > 0 AND NOT attisdropped
"""
RULES = """
    SELECT conrelid::regclass::text AS relation, pg_get_constraintdef(oid) AS rule, contype <> 'c' AS promised,
        ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey)) AS columns
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT indrelid::regclass::text, regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \\S+', 'INDEX'), true,
        ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey))
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE indisunique AND relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT tgrelid::regclass::text, pg_get_triggerdef(pg_trigger.oid), true, ARRAY[]::name[]
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE NOT tgisinternal AND relnamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class Schema:
    """Columns by relation and name, and what rows have to keep to: (relation, rule) to its row of RULES."""

    columns: dict[tuple[str, str], Any]
    rules: dict[tuple[str, str], Any]


def read_schema(connection: Connection) -> Schema:
    return Schema(
        {(row.relation, row.name): row for row in connection.execute(text(COLUMNS))},
        {(row.relation, row.rule): row for row in connection.execute(text(RULES))},
    )


def not_only_added(old: Schema, new: Schema) -> list[str]:
    """What code that knows `old` alone might trip over in `new`: empty where it was only added to.

    It reads and writes the columns that it knows and leaves out all others; and relies on what is unique or refers.
    """
    found = []
    relations = {relation for relation, _ in old.columns}
    for (relation, name), column in old.columns.items():
        now = new.columns.get((relation, name))
        if now is None:
            found.append(f"{relation}.{name} is gone")
        elif (now.kind, now.type) != (column.kind, column.type):
            found.append(f"{relation}.{name} is {now.type}, and was {column.type}")
        elif now.required and not column.required:
            found.append(f"{relation}.{name} may no longer be null")
    for (relation, name), column in new.columns.items():
        if relation in relations and (relation, name) not in old.columns and column.required and not column.has_value:
            found.append(f"{relation}.{name} is new and has to be given")
    for (relation, rule), row in new.rules.items():
        added = {name for name in row.columns if (relation, name) not in old.columns}
        # One on new columns alone holds where they are null.
        if relation in relations and (relation, rule) not in old.rules and not (added and added == set(row.columns)):
            refers = rule.startswith("FOREIGN KEY") and bool(added)
            if not refers:
                found.append(f"{relation}: {rule} is new")
    for (relation, rule), row in old.rules.items():
        if row.promised and (relation, rule) not in new.rules and any(key[0] == relation for key in new.columns):
            found.append(f"{relation}: {rule} is gone")
    return sorted(found)
