"""Converting Arrow's types to JSON's: the type to cast to, and columns as Python values."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from service.datasets.parsing.strict_json import MAX_DEPTH


class NoJsonTypeError(ValueError):
    """JSON cannot express a type. The text says why, without a name."""


def json_type(type: Any, depth: int = 2) -> Any:
    """Find the type to cast to before Python reads the values.

    Args:
        type: An Arrow type.
        depth: How many levels of nesting are around it.

    Returns:
        The type; None if its values are JSON's as they are.

    Raises:
        NoJsonTypeError: JSON cannot express it.
    """
    types = pa.types
    if depth > MAX_DEPTH:
        raise NoJsonTypeError(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(type, pa.BaseExtensionType):
        if type == pa.uuid():
            return pa.string()
        return json_type(type.storage_type, depth) or type.storage_type
    if types.is_dictionary(type):
        return json_type(type.value_type, depth) or type.value_type
    if _is_list_view(type):
        return pa.large_list(json_type(type.value_type, depth + 1) or type.value_type)
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        target = json_type(type.value_type, depth + 1)
        return None if target is None else pa.large_list(type.value_field.with_type(target))
    if types.is_struct(type):
        fields = [type.field(index) for index in range(type.num_fields)]
        if len({field.name for field in fields}) != len(fields):
            raise NoJsonTypeError("has two inner fields of one name")
        targets = [json_type(field.type, depth + 1) for field in fields]
        if not any(target is not None for target in targets):
            return None
        return pa.struct(
            [
                field if target is None else field.with_type(target)
                for field, target in zip(fields, targets, strict=True)
            ]
        )
    if types.is_timestamp(type) or types.is_date(type) or types.is_time(type) or types.is_decimal(type):
        return pa.string()
    if types.is_binary(type) or types.is_large_binary(type) or types.is_binary_view(type) or types.is_string_view(type):
        return pa.large_string()
    if types.is_float16(type):
        return pa.float32()
    if types.is_string(type) or types.is_large_string(type) or types.is_boolean(type) or types.is_null(type):
        return None
    if types.is_integer(type) or types.is_floating(type):
        return None
    raise NoJsonTypeError(f"has the type {str(type)[:60]}, which JSON cannot express")


def as_json_has_it(column: Any, target: Any) -> Any:
    """Cast a column to a type whose Python values JSON can express, without dictionaries and views.

    Args:
        column: An Arrow array.
        target: What `json_type` returned for its type.

    Raises:
        ArrowException: Bytes are not UTF-8.
    """
    if target is None:
        return column
    if isinstance(column.type, pa.BaseExtensionType) and column.type == pa.uuid():
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], target)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        # One form for all zones: the same moment in UTC.
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    if holds(column.type, _is_list_view):
        # Arrow's own cast of a view of lists loses elements.
        column = pa.array(column.to_pylist(), _without_list_views(column.type))
    return column if column.type == target else pc.cast(column, target)


def holds(type: Any, test: Any) -> bool:
    """Return whether a type, or one inside it, passes a test.

    Args:
        type: An Arrow type.
        test: A predicate of types.
    """
    if pa.types.is_dictionary(type):
        return holds(type.value_type, test)
    if test(type):
        return True
    return pa.types.is_nested(type) and any(holds(type.field(index).type, test) for index in range(type.num_fields))


def _is_list_view(type: Any) -> bool:
    return bool(pa.types.is_list_view(type) or pa.types.is_large_list_view(type))


def _without_list_views(type: Any) -> Any:
    if _is_list_view(type) or pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.large_list(_without_list_views(type.value_type))
    if pa.types.is_struct(type):
        fields = [type.field(index) for index in range(type.num_fields)]
        return pa.struct([field.with_type(_without_list_views(field.type)) for field in fields])
    return type
