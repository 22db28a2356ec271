"""Schemas and checks of Python types, by pydantic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from pydantic import PydanticUserError, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ValidationError

from llmflow.errors import ConfigurationError
from llmflow.typed.answer_json import target_of
from llmflow.typed.mismatch import RESPONSE, mismatch, path_text, problem
from llmflow.typed.schema_check import rooted
from llmflow.typed.typed_dicts import with_known_dicts

_DECIMAL: Final = r"^-?[0-9]+(\.[0-9]+)?$"
_USE: Final = "use a pydantic model, dataclass, TypedDict, Literal, enum, list or plain type"
_BOUNDS: Final = ("gt", "ge", "lt", "le", "multiple_of")


class _Schemas(GenerateJsonSchema):
    """Writes schemas for models to read: without the titles that repeat names."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as its base has it

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """Return a text of digits; a number where there are bounds, which texts cannot have.

        pydantic's own is a union of both, with a pattern that OpenAI's strict mode refuses.
        """
        if any(schema.get(bound) is not None for bound in _BOUNDS):
            found = dict(super().decimal_schema(schema)["anyOf"][0])
            return {**found, "format": "decimal"}
        return {"type": "string", "format": "decimal", "pattern": _DECIMAL}

    def model_schema(self, schema: Any) -> dict[str, Any]:
        return _untitled(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        return _untitled(super().dataclass_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        return _untitled(super().typed_dict_schema(schema), schema.get("cls"))


def _untitled(schema: dict[str, Any], cls: Any) -> dict[str, Any]:
    if schema.get("title") == getattr(cls, "__name__", None):
        schema.pop("title", None)
    return schema


class PydanticCheck:
    """Reads answers of a Python type.

    Args:
        given: the type.

    Raises:
        ConfigurationError: the type has no JSON schema.
    """

    errors: tuple[type[Exception], ...] = (ValidationError,)

    def __init__(self, given: Any) -> None:
        given = _known(given)
        self.own = _adapter(given)
        schema = _schema(self.own, given)
        self._names = _named_tuple(given)
        if self._names:
            schema = _as_object(rooted(schema), self._names)
        self.wraps = not _is_record(schema)
        adapter = self.own
        if self.wraps:
            fields: dict[str, Any] = {RESPONSE: (given, ...)}
            adapter = _adapter(create_model("Answer", **fields))
            schema = _schema(adapter, given)
            if schema["properties"][RESPONSE] == {}:
                raise ConfigurationError(f"output_type {_shown(given)} accepts any answer; {_USE}")
        self.schema = rooted(schema)
        # Of sets of texts, the order is another one in each process.
        self._has_sets = '"uniqueItems":true' in orjson.dumps(self.schema).decode()
        self._own_schema = self.schema["properties"][RESPONSE] if self.wraps else self.schema
        self._adapter = adapter
        self._validate: Callable[[str], Any] = adapter.validator.validate_json
        self._validate_own: Callable[[str], Any] = self.own.validator.validate_json
        self._dump = self.own.serializer.to_python
        self._columns = tuple(self.schema["properties"])
        self._keys = () if self.wraps or self._names else _dumped_names(self.own, self._columns)

    def read(self, text: str) -> Any:
        """Return the value of an answer's JSON; raises one of `errors`."""
        if self.wraps:
            return self._validate(text).response
        return self._validate(text)

    def read_unwrapped(self, text: str) -> Any:
        """Return the value of JSON that is not wrapped as an object."""
        return self._validate_own(text)

    def row(self, value: Any) -> dict[str, Any]:
        """Return a value as plain JSON data by column."""
        try:
            dumped = self._dump(value, mode="json", by_alias=True, warnings=False)
        except Exception as error:
            raise mismatch([problem("", f"it cannot be written as JSON: {error}")]) from error
        if self._has_sets:
            dumped = _in_order(dumped, self._own_schema, self.schema)
        if self.wraps:
            return {RESPONSE: dumped}
        if self._names:
            return dict(zip(self._names, dumped, strict=True))
        if type(dumped) is dict and tuple(dumped) == self._columns:
            return dumped
        if not isinstance(dumped, dict):
            kind = type(dumped).__name__
            raise mismatch([problem("", f"the type's own serializer gives {kind}, not an object")])
        get = dumped.get
        return {name: get(key) for name, key in zip(self._columns, self._keys, strict=True)}

    def problems(self, error: Exception, data: Any) -> Iterator[str]:
        """Yield what is wrong with data, a line each."""
        assert isinstance(error, ValidationError)
        for each in error.errors(include_url=False, include_context=False):
            path = path_text(_steps(each["loc"], data))
            if each["type"] == "json_invalid":
                yield problem(path, each["msg"].replace("Invalid JSON", "not valid JSON"))
            elif each["type"] in ("missing", "extra_forbidden"):
                yield problem(path, each["msg"])
            else:
                yield problem(path, each["msg"], each["input"])


def _in_order(data: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    """Return JSON data with the values of its sets in order."""
    schema = target_of(schema, root)
    if not isinstance(schema, Mapping) or not isinstance(data, (dict, list)):
        return data
    for key in ("anyOf", "oneOf"):
        for option in schema.get(key, ()):
            data = _in_order(data, option, root)
    if isinstance(data, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        return {
            name: _in_order(value, properties.get(name, more), root) for name, value in data.items()
        }
    items = [_in_order(each, schema.get("items"), root) for each in data]
    if not schema.get("uniqueItems"):
        return items
    try:
        return sorted(items)
    except TypeError:  # of objects, or of several types
        return sorted(items, key=orjson.dumps)


def _steps(location: Sequence[str | int], data: Any) -> list[str | int]:
    """Return the keys and places of an error, without the names of unions' alternatives."""
    steps: list[str | int] = []
    for number, step in enumerate(location):
        try:
            data = data[step]
        except (LookupError, TypeError):
            if number < len(location) - 1 or not isinstance(data, dict):
                continue
        steps.append(step)
    return steps


def _known(given: Any) -> Any:
    try:
        return with_known_dicts(given)
    except Exception as error:  # of a name that is not defined
        raise _unusable(given, error) from error


def _adapter(given: Any) -> TypeAdapter[Any]:
    shown = _shown(given)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(given)
        adapter.rebuild()
        return adapter
    except PydanticSchemaGenerationError as error:
        reason = str(error).splitlines()[0].partition(". Set `arb")[0]
        raise ConfigurationError(
            f"output_type {shown} has no JSON schema: {reason.rstrip('.')}; {_USE}"
        ) from error
    except Exception as error:  # such as an ImportError of EmailStr, or of a class's own schema
        raise _unusable(given, error) from error


def _unusable(given: Any, error: Exception) -> ConfigurationError:
    if getattr(error, "code", None) == "typed-dict-version":
        return ConfigurationError(
            f"output_type {_shown(given)} has a class with a TypedDict: before Python 3.12 "
            "that must be one of typing_extensions (from typing_extensions import TypedDict)"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return ConfigurationError(
        f"output_type {_shown(given)} cannot be used: {reason}; {_USE}, and define the classes "
        "that it names before it, in a module"
    )


def _schema(adapter: TypeAdapter[Any], given: Any) -> dict[str, Any]:
    try:
        schema = adapter.json_schema(schema_generator=_Schemas)
    except (PydanticInvalidForJsonSchema, PydanticUserError, RecursionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigurationError(
            f"output_type {_shown(given)} has no JSON schema: {reason}; {_USE}"
        ) from error
    for part in schema.get("$defs", {}).values():
        if "enum" in part or "const" in part:
            part.pop("title", None)  # the name of the enum's class
    return schema


def _shown(given: Any) -> str:
    return given.__name__ if isinstance(given, type) else repr(given)[:80]


def _is_record(schema: Mapping[str, Any]) -> bool:
    """Return True if a schema is an object of named properties."""
    try:
        schema = rooted(schema)
    except LookupError:
        return False
    return schema.get("type") == "object" and "properties" in schema


def _named_tuple(given: Any) -> tuple[str, ...]:
    """Return the fields of a NamedTuple, of any other type none."""
    is_one = isinstance(given, type) and issubclass(given, tuple)
    return tuple(getattr(given, "_fields", ())) if is_one else ()


def _as_object(schema: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the schema of a NamedTuple as an object, which pydantic takes as well.

    A list, as pydantic has it, would tell a model no names.
    """
    parts, least = schema["prefixItems"], schema.get("minItems", 0)
    rest = {
        name: part
        for name, part in schema.items()
        if name not in ("prefixItems", "minItems", "maxItems", "type")
    }
    return {
        **rest,
        "type": "object",
        "properties": dict(zip(names, parts, strict=True)),
        "required": list(names[:least]),
    }


def _dumped_names(adapter: TypeAdapter[Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that the columns' values have when they are written."""

    def names(mode: Any, by_alias: bool) -> list[str]:
        schema = adapter.json_schema(schema_generator=_Schemas, mode=mode, by_alias=by_alias)
        return list(rooted(schema).get("properties", ()))

    try:
        fields = names("validation", False)
        written = dict(zip(names("serialization", False), names("serialization", True)))  # noqa: B905
    except (PydanticUserError, LookupError):
        return columns
    if len(fields) != len(columns):
        return columns
    return tuple(written.get(name, name) for name in fields)
