"""Reads answers of a Python type by its stored schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmflow.typed.columns import Scalar, columns_of
from llmflow.typed.pointers import resolved
from llmflow.typed.schema_check import SchemaCheck

_INTEGER: Final = re.compile(r"\s*[+-]?\d{1,400}(\.0+)?\s*", re.ASCII)
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
# As pydantic reads them, ignoring case ("Conversion Table").
_TRUE: Final = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE: Final = frozenset(("false", "f", "no", "n", "off", "0"))
_MOST_REFERENCES: Final = 20


class StoredCheck(SchemaCheck):
    """Reads answers as near to a type as its schema tells.

    What pydantic takes for a number or a truth value is one, and what an answer leaves out has
    its default. What the type checks in Python is not known.
    """

    def __init__(self, given: Mapping[str, Any], *, wrapped: bool = False) -> None:
        from pydantic_core import to_json

        super().__init__(given, wrapped=wrapped)
        columns = columns_of(self.schema)
        self._has_defaults = b'"default":' in to_json(self.schema)
        self._decimals = [each.name for each in columns if each.kind == Scalar("decimal")]

    def _checked(self, text: str, validator: Any) -> Any:
        from pydantic_core import from_json, to_json

        try:
            data = from_json(text, allow_inf_nan=False)
        except ValueError:
            return super()._checked(text, validator)  # says what is wrong
        schema: Any = self.schema
        if self.wraps and validator is self._own:
            schema = schema["properties"]["response"]
        data = super()._checked(to_json(read_as(data, schema, self.schema)).decode(), validator)
        # Not before: defaults need not fit.
        return read_as(data, schema, self.schema, defaults=True) if self._has_defaults else data

    def row(self, value: Any) -> dict[str, Any]:
        """Return a value by column."""
        row = super().row(value)
        for name in self._decimals:
            number = row[name]
            if isinstance(number, int | float):
                whole = isinstance(number, float) and number.is_integer()
                row[name] = str(int(number) if whole else number)
        return row


def read_as(data: Any, schema: Any, root: Mapping[str, Any], *, defaults: bool = False) -> Any:
    """Return JSON data with values as a type has them.

    >>> schema = {"properties": {"n": {"type": "integer"}, "m": {"type": "string", "default": "-"}}}
    >>> read_as({"n": "5"}, schema, schema, defaults=True)
    {'n': 5, 'm': '-'}

    Args:
        data: any JSON data; what does not fit stays as it is.
        schema: its schema.
        root: the schema that references are looked up in.
        defaults: whether missing values are filled in.
    """
    schema = _without_references(schema, root)
    if schema is None:
        return data
    if isinstance(data, dict):
        return _object(data, schema, root, defaults=defaults)
    if isinstance(data, list):
        first, items = schema.get("prefixItems", ()), schema.get("items")
        parts = [*first, *[items] * (len(data) - len(first))]
        return [
            read_as(each, part, root, defaults=defaults)
            for each, part in zip(data, parts, strict=False)
        ]
    kind = schema.get("type")
    read = _SCALARS.get(kind) if isinstance(kind, str) else None
    return data if read is None or data is None else read(data, schema)


def _without_references(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a schema or its only alternative beside null says, if that is clear."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, Mapping):
            return None
        options = schema.get("anyOf")
        if "$ref" in schema:
            try:
                schema = resolved(root, schema["$ref"])
            except LookupError:
                return None
        elif isinstance(options, list):
            some = [each for each in options if each != {"type": "null"}]
            if len(some) != 1:
                return None
            schema = some[0]
        else:
            return schema
    return None


def _object(
    data: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], *, defaults: bool
) -> dict[str, Any]:
    parts, others = schema.get("properties"), None
    if not isinstance(parts, Mapping):
        parts, others = {}, schema.get("additionalProperties")
    found = {
        name: read_as(value, parts.get(name, others), root, defaults=defaults)
        for name, value in data.items()
    }
    for name, part in parts.items() if defaults else ():
        if name not in found and isinstance(part, Mapping) and "default" in part:
            found[name] = part["default"]
    return found


def _integer(data: Any, _: Mapping[str, Any]) -> Any:
    if isinstance(data, bool) or (isinstance(data, float) and data.is_integer()):
        return int(data)
    if isinstance(data, str) and _INTEGER.fullmatch(data):
        return int(data.partition(".")[0])
    return data


def _number(data: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(data, str) and _NUMBER.fullmatch(data):
        return float(data)
    if isinstance(data, int) and schema.get("format") != "decimal" and abs(data) < 1 << 53:
        return float(data)
    return data


def _boolean(data: Any, _: Mapping[str, Any]) -> Any:
    if isinstance(data, str):
        word = data.lower()
        return True if word in _TRUE else False if word in _FALSE else data
    return bool(data) if data in (0, 1) else data


def _string(data: Any, schema: Mapping[str, Any]) -> Any:
    is_number = isinstance(data, int | float) and not isinstance(data, bool)
    return str(data) if is_number and schema.get("format") == "decimal" else data


_SCALARS: Final[Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
}
