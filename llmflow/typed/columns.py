"""The columns of an output type, worked out from its JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from llmflow.typed.alternatives import of_2020
from llmflow.typed.pointers import reached, resolved

ScalarName = Literal[
    "string", "integer", "number", "boolean", "date", "datetime", "time", "decimal"
]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A column of one plain type."""

    name: ScalarName


@dataclass(frozen=True, slots=True)
class ListOf:
    """A column of lists."""

    item: ColumnKind


@dataclass(frozen=True, slots=True)
class Struct:
    """A column of objects with known fields."""

    fields: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class AnyJson:
    """A column of any JSON values.

    In files it is JSON text, in pandas objects.
    """


ColumnKind: TypeAlias = Scalar | ListOf | Struct | AnyJson

JSON: Final = AnyJson()
_STRING: Final = Scalar("string")
_PLAIN: Final[Mapping[str, Scalar]] = {
    "string": _STRING,
    "integer": Scalar("integer"),
    "number": Scalar("number"),
    "boolean": Scalar("boolean"),
}
_FORMATS: Final[Mapping[str, Scalar]] = {
    "date": Scalar("date"),
    "date-time": Scalar("datetime"),
    "time": Scalar("time"),
    "decimal": Scalar("decimal"),
}
_TYPE_NAMES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of answers: every column may hold nulls.

    Args:
        name: the property's name in the schema.
        kind: the type of its values.
    """

    name: str
    kind: ColumnKind


def columns_of(schema: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return the columns of an object's schema, in its order.

    Values of several types, objects with names of their own, and recursive ones are `AnyJson`.

    >>> columns_of({"properties": {"sizes": {"type": "array", "items": {"type": "integer"}}}})
    (Column(name='sizes', kind=ListOf(item=Scalar(name='integer'))),)
    """
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return ()
    kinds = _Kinds(schema)
    return tuple(Column(name, kinds.of(part, ())) for name, part in properties.items())


class _Kinds:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[str, ColumnKind] = {}

    def of(self, schema: Any, seen: tuple[str, ...]) -> ColumnKind:
        """Return the kind of a schema's values."""
        if not isinstance(schema, Mapping):
            return JSON
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._referred(reference, seen)
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list):
                return self._union(schema[key], seen)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            return _of_values(values, schema)
        return self._typed(schema, seen)

    def _referred(self, reference: str, seen: tuple[str, ...]) -> ColumnKind:
        found = self._known.get(reference)
        if found is None:
            found = JSON
            if reference not in seen and reference not in reached(self._root, reference):
                try:
                    target = resolved(self._root, reference)
                except LookupError:
                    return JSON
                found = self.of(target, (*seen, reference))
            self._known[reference] = found
        return found

    def _union(self, options: list[Any], seen: tuple[str, ...]) -> ColumnKind:
        """Return the kind that all alternatives have, null apart."""
        kinds = [
            self.of(option, seen)
            for option in options
            if not (isinstance(option, Mapping) and option.get("type") == "null")
        ]
        first = kinds[0] if kinds else JSON
        return first if all(kind == first for kind in kinds) else JSON

    def _typed(self, schema: Mapping[str, Any], seen: tuple[str, ...]) -> ColumnKind:
        names = schema.get("type")
        if isinstance(names, list):
            names = [name for name in names if name != "null"]
            if len(names) != 1:
                return JSON
            names = names[0]
        if names is None and "properties" in schema:
            names = "object"
        if names == "array":
            return self._array(schema, seen)
        if names == "object":
            return self._object(schema, seen)
        found = _PLAIN.get(str(names), JSON)
        if names in ("string", "number"):
            found = _FORMATS.get(str(schema.get("format")), found)
        return found

    def _array(self, schema: Mapping[str, Any], seen: tuple[str, ...]) -> ColumnKind:
        schema = of_2020(schema)
        first = schema.get("prefixItems")
        options = list(first) if isinstance(first, list) else []
        if "items" in schema and schema["items"] is not False:
            options.append(schema["items"])
        kind = self._union(options, seen)
        return JSON if kind == JSON else ListOf(kind)

    def _object(self, schema: Mapping[str, Any], seen: tuple[str, ...]) -> ColumnKind:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            return JSON
        if schema.get("additionalProperties"):
            return JSON  # names of its own would be lost
        return Struct(tuple(Column(name, self.of(part, seen)) for name, part in properties.items()))


def _of_values(values: list[Any], schema: Mapping[str, Any]) -> ColumnKind:
    names = {_TYPE_NAMES.get(type(value), "object") for value in values} - {"null"}
    if names == {"integer", "number"}:
        names = {"number"}
    if len(names) != 1:
        return JSON
    kind = _PLAIN.get(names.pop(), JSON)
    return _FORMATS.get(str(schema.get("format")), kind) if kind == _STRING else kind
