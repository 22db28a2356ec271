"""Checks of answers by a JSON schema that the user gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmflow.errors import ConfigurationError
from llmflow.typed.levels import levels
from llmflow.typed.mismatch import RESPONSE, path_text, problem
from llmflow.typed.pointers import resolved, subschemas

_MOST_LEVELS: Final = 100
_OF_THE_WHOLE: Final = ("$schema", "$id", "$defs", "definitions")


class SchemaMismatchError(ValueError):
    """JSON data does not fit a schema."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems


class SchemaCheck:
    """Reads answers of a JSON schema.

    Args:
        given: the schema.
        wrapped: whether it is the schema of an object that only wraps the wanted one.

    Raises:
        ConfigurationError: it is no JSON schema.
    """

    errors: tuple[type[Exception], ...] = (SchemaMismatchError,)

    def __init__(self, given: Mapping[str, Any], *, wrapped: bool = False) -> None:
        schema = checked(given)
        if wrapped:
            schema = _unwrapped(schema)
        root = rooted(schema)
        self.wraps = wrapped or not (
            root.get("type") == "object" and isinstance(root.get("properties"), dict)
        )
        self.schema = _wrapped(schema) if self.wraps else root
        self._validator = _validator(self.schema)
        self._own = _validator(schema) if self.wraps else self._validator
        self._columns = tuple(self.schema["properties"])

    def read(self, text: str) -> Any:
        """Return the data of an answer; raises one of `errors`."""
        data = self._checked(text, self._validator)
        return data[RESPONSE] if self.wraps else data

    def read_unwrapped(self, text: str) -> Any:
        """Return the data of JSON that is not wrapped as an object."""
        return self._checked(text, self._own)

    def _checked(self, text: str, validator: Any) -> Any:
        from pydantic_core import from_json

        try:
            data = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise SchemaMismatchError([problem("", f"not valid JSON: {error}")]) from None
        if not validator.is_valid(data):
            raise SchemaMismatchError(list(_problems(validator, data)))
        return data

    def row(self, value: Any) -> dict[str, Any]:
        """Return a value by column."""
        if self.wraps:
            return {RESPONSE: value}
        if tuple(value) == self._columns:
            return dict(value)
        get = value.get
        return {name: get(name) for name in self._columns}

    def problems(self, error: Exception, data: Any) -> Iterator[str]:  # noqa: ARG002
        """Yield what is wrong with data, a line each."""
        assert isinstance(error, SchemaMismatchError)
        yield from error.problems


def _problems(validator: Any, data: Any) -> Iterator[str]:
    for number, error in enumerate(validator.iter_errors(data)):
        if number > 10:
            return
        yield problem(path_text(error.instance_path), error.message)


def _nothing_is_fetched(uri: str) -> Any:
    raise ValueError(f"{uri} is not in the schema, and nothing is fetched")


def _validator(schema: dict[str, Any]) -> Any:
    import jsonschema_rs

    options: dict[str, Any] = {"validate_formats": True, "retriever": _nothing_is_fetched}
    try:
        if "$schema" in schema:
            return jsonschema_rs.validator_for(schema, **options)
        return jsonschema_rs.Draft202012Validator(schema, **options)
    except (jsonschema_rs.ValidationError, ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError(_not_a_schema(error)) from None


def _not_a_schema(error: Exception) -> str:
    place = path_text(list(getattr(error, "instance_path", ())))
    reason = str(getattr(error, "message", "") or error).splitlines()[0]
    return (
        f"output_type is no JSON schema: {problem(place, reason)}; "
        'a schema is a dict such as {"type": "object", '
        '"properties": {"score": {"type": "integer"}}}'
    )


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked copy of a user's schema.

    Raises:
        ConfigurationError: it is none.
    """
    import orjson

    try:
        text = orjson.dumps(dict(given))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(_not_a_schema(error)) from None
    if levels(text.decode()) > _MOST_LEVELS:  # it is looked through by recursion
        raise ConfigurationError(_not_a_schema(ValueError(f"more than {_MOST_LEVELS} levels")))
    schema: dict[str, Any] = orjson.loads(text)
    inner = schema.get("json_schema", schema.get("schema"))
    if isinstance(inner, dict) and not {"properties", "$ref"} & schema.keys():
        raise ConfigurationError(
            _not_a_schema(ValueError("it is a response_format; give the schema that is in it"))
        )
    if not _says_something(schema):
        known = ", ".join(list(map(str, schema))[:3]) or "nothing"
        raise ConfigurationError(_not_a_schema(ValueError(f"it accepts any answer: found {known}")))
    _validator(schema)
    for part in _all_parts(schema):
        reference = part.get("$ref")
        if isinstance(reference, str):
            try:
                resolved(schema, reference)
            except LookupError:
                raise ConfigurationError(
                    _not_a_schema(ValueError(f"$ref {reference!r} points to nothing in it"))
                ) from None
    return schema


_MEANING: Final = frozenset(
    (
        *("type", "properties", "items", "prefixItems", "enum", "const", "anyOf", "oneOf"),
        *("allOf", "$ref", "additionalProperties", "pattern", "format", "minimum", "maximum"),
        *("not", "if", "required", "minLength", "maxLength", "contains", "patternProperties"),
    )
)


def _says_something(schema: Mapping[str, Any]) -> bool:
    return not _MEANING.isdisjoint(schema)


def _all_parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += [inner for _, inner in subschemas(part)]


def rooted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose root is no reference."""
    result = dict(schema)
    for _ in range(20):
        if "$ref" not in result:
            break
        target = resolved(schema, result.pop("$ref"))
        if not isinstance(target, Mapping):
            break
        result = {**target, **result}
    others = {"type", "anyOf", "oneOf", "allOf", "enum", "const"}
    if isinstance(result.get("properties"), Mapping) and not result.keys() & others:
        result["type"] = "object"
    return result


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for an object with one property, of the given schema."""
    inner = dict(schema)
    name = "Response"
    while name in inner.get("$defs", ()):
        name += "_"
    is_referred_to = any(_is_within_root(part.get("$ref")) for part in _all_parts(schema))
    if is_referred_to:
        inner = _moved(inner, f"#/$defs/{name}")
    outer: dict[str, Any] = {name: inner.pop(name) for name in _OF_THE_WHOLE if name in inner}
    if is_referred_to:
        outer["$defs"] = {**outer.get("$defs", {}), name: inner}
        inner = {"$ref": f"#/$defs/{name}"}
    return {
        **outer,
        "type": "object",
        "properties": {RESPONSE: inner},
        "required": [RESPONSE],
    }


def _unwrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a wrapping one holds."""
    properties = schema.get("properties")
    inner = properties.get(RESPONSE) if isinstance(properties, dict) else None
    if not isinstance(inner, dict):
        raise ConfigurationError(_not_a_schema(ValueError("it has no property response")))
    outer = {name: schema[name] for name in _OF_THE_WHOLE if name in schema}
    return {**outer, **inner}


def _is_within_root(reference: object) -> bool:
    """Return True if a reference is to the root or its parts, not to a definition."""
    is_one = isinstance(reference, str) and reference.startswith("#")
    return is_one and not str(reference).startswith(("#/$defs/", "#/definitions/"))


def _moved(part: Any, place: str) -> Any:
    """Return a schema whose references to the root are to where it is moved."""
    if isinstance(part, list):
        return [_moved(each, place) for each in part]
    if not isinstance(part, Mapping):
        return part
    moved = {name: _moved(each, place) for name, each in part.items()}
    if _is_within_root(part.get("$ref")):
        moved["$ref"] = place + part["$ref"][1:]
    return moved
