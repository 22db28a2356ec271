"""JSON schemas that the OpenAI dialect takes, and from which models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from llmflow.simulator.openai.chat_wire import OpenAIError
from llmflow.simulator.schema_value import schema_parts

_REFUSED: Final = (
    *("allOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas"),
    *("default", "examples", "propertyNames", "patternProperties", "unevaluatedProperties"),
    *("minProperties", "maxProperties", "uniqueItems", "unevaluatedItems"),
    *("contains", "minContains", "maxContains"),
)
_FORMATS: Final = (
    *("date-time", "time", "date", "duration"),
    *("email", "hostname", "ipv4", "ipv6", "uuid"),
)
_MOST_LEVELS: Final = 10
_MOST_PARAMETERS: Final = 5000
_MOST_ENUM: Final = 1000
_LONG_ENUM: Final = 250
_MOST_LONG_ENUM_CHARACTERS: Final = 15_000
_MOST_CHARACTERS: Final = 120_000
_LOOKAROUND: Final = re.compile(r"(?<!\\)(?:\\\\)*\(\?<?[=!]")
_MOST_TAKEN: Final = 64
_TAKEN: Final[set[bytes]] = set()
# Those from before structured outputs, and of them those from before JSON mode.
_NO_SCHEMA: Final = re.compile(
    r"(?:gpt-3\.5(?:-|$)|gpt-4(?:-|$)|gpt-4o-2024-05-13$|chatgpt-4o-latest$|o1-(?:mini|preview)(?:-|$))"
)
_NO_JSON: Final = re.compile(r"gpt-4(?:-32k)?(?:-0314|-0613)?$|o1-(?:mini|preview)(?:-|$)")
_GUIDE: Final = (
    " Learn more about supported models at the Structured Outputs guide: "
    "https://platform.openai.com/docs/guides/structured-outputs"
)


def check_format(wanted: Mapping[str, Any], model: str) -> None:
    """Raise the refusal of a ``response_format``."""
    kind, name = wanted.get("type"), model.rpartition("/")[2]
    if kind == "json_schema" and _NO_SCHEMA.match(name):
        raise _unsupported("json_schema", _GUIDE)
    if kind == "json_object" and _NO_JSON.match(name):
        raise _unsupported("json_object", "")
    outer = wanted.get("json_schema") or {}
    if kind == "json_schema" and outer.get("strict"):
        _check_strict(outer["schema"], f"response_format '{outer['name']}'", "response_format")


def _unsupported(kind: str, guide: str) -> OpenAIError:
    what = f"'response_format' of type '{kind}' is not supported with this model."
    return OpenAIError(400, f"Invalid parameter: {what}{guide}")


def check_tool(function: Mapping[str, Any], param: str) -> None:
    """Raise the refusal of a function's schema.

    Args:
        function: the function of a tool.
        param: where its schema is in the request.
    """
    schema, what = function.get("parameters"), f"function '{function.get('name')}'"
    if function.get("strict"):
        _check_strict(schema or {}, what, param)
    elif schema and schema.get("type") != "object":
        raise _invalid(what, _no_object(schema), param)


def _check_strict(schema: Mapping[str, Any], what: str, param: str) -> None:
    """Raise the refusal of a schema outside ``strict: true``."""
    try:
        text = orjson.dumps(schema)
    except TypeError:  # a number that only Python's own reader takes
        text = b""
    if text in _TAKEN:  # all calls of a run have the same
        return
    _find_fault(schema, what, param)
    if text:
        if len(_TAKEN) >= _MOST_TAKEN:
            _TAKEN.clear()
        _TAKEN.add(text)


def _find_fault(schema: Mapping[str, Any], what: str, param: str) -> None:
    if schema.get("type") != "object" or "anyOf" in schema:
        raise _invalid(what, _no_object(schema), param)
    parts = list(schema_parts(schema))
    for path, part in parts:
        reason = _problem(part)
        if reason is not None:
            place = ", ".join(f"'{name}'" for name in path) + ("," if len(path) == 1 else "")
            raise _invalid(what, f"In context=({place}), {reason}", param)
    for path, part in parts:
        if _LOOKAROUND.search(str(part.get("pattern", ""))):
            message = "Invalid JSON schema: regex lookaround is not supported."
            where = ".".join(("$", *path, "pattern"))
            raise _error(f"{message} Found at {where}.", param)
    for reason in _exceeded(schema, [part for _, part in parts]):
        raise _invalid(what, reason, param)


def _no_object(schema: Mapping[str, Any]) -> str:
    got = f"got 'type: \"{schema.get('type')}\"'"
    return f"schema must be a JSON Schema of 'type: \"object\"', {got}"


def _invalid(what: str, reason: str, param: str) -> OpenAIError:
    return _error(f"Invalid schema for {what}: {reason}.", param)


def _error(message: str, param: str) -> OpenAIError:
    in_tool = param != "response_format"
    code = "invalid_function_parameters" if in_tool else "invalid_json_schema"
    return OpenAIError(400, message, param=param, code=code)


def _problem(part: Mapping[str, Any]) -> str | None:
    """Return why a part of a schema is outside the subset."""
    refused = next((key for key in _REFUSED if key in part), None)
    if refused is not None:
        return f"'{refused}' is not permitted"
    if "$ref" in part and len(part) > 1:
        extra = next(key for key in part if key != "$ref")
        return f"$ref cannot have keywords {{'{extra}'}}"
    if not any(key in part for key in ("type", "$ref", "anyOf")):
        return "schema must have a 'type' key"
    kind = part.get("type")
    if kind == "array" and not isinstance(part.get("items"), dict):
        return "array schema missing items"
    if "format" in part and part["format"] not in _FORMATS:
        return f"'{part['format']}' is not a valid format"
    return _object_problem(part) if kind == "object" or "properties" in part else None


def _object_problem(part: Mapping[str, Any]) -> str | None:
    if part.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false"
    properties, required = part.get("properties") or {}, part.get("required") or []
    if not isinstance(properties, dict) or not isinstance(required, list):
        return "'properties' must be of type 'object', and 'required' of type 'array'"
    left_out = [key for key in properties if key not in required]
    if left_out:
        return (
            "'required' is required to be supplied and to be an array including every key "
            f"in properties. Missing '{left_out[0]}'"
        )
    return None


def _exceeded(schema: Mapping[str, Any], parts: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield which limits of size a schema exceeds."""
    levels = max(_levels(part) for part in (schema, *_definitions(schema)))
    names = [name for part in parts for name in part.get("properties") or ()]
    names += [name for key in ("$defs", "definitions") for name in schema.get(key) or ()]
    enums = [part["enum"] for part in parts if isinstance(part.get("enum"), list)]
    values = [value for enum in enums for value in enum]
    values += [part["const"] for part in parts if "const" in part]
    characters = sum(len(str(text)) for text in (*names, *values))
    counts = (
        (levels, "levels of nesting", _MOST_LEVELS),
        (sum(len(part.get("properties") or ()) for part in parts), "parameters", _MOST_PARAMETERS),
        (sum(map(len, enums)), "enum values", _MOST_ENUM),
        (characters, "characters of names and values", _MOST_CHARACTERS),
        *(
            (sum(len(str(value)) for value in enum), "characters", _MOST_LONG_ENUM_CHARACTERS)
            for enum in enums
            if len(enum) > _LONG_ENUM
        ),
    )
    for count, what, most in counts:
        if count > most:
            yield f"{count} {what} exceeds limit of {most}"


def _definitions(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("$defs", "definitions"):
        named = schema.get(key)
        yield from (part for part in (named or {}).values() if isinstance(part, Mapping))


def _levels(part: Mapping[str, Any]) -> int:
    """Return how many objects and lists are within each other, without references."""
    inner = [each for each in (part.get("properties") or {}).values() if isinstance(each, dict)]
    inner += [each for each in (part.get("items"),) if isinstance(each, dict)]
    options = [each for each in part.get("anyOf") or () if isinstance(each, dict)]
    deepest = max(map(_levels, inner), default=0)
    own = 1 if inner or part.get("type") in ("object", "array") else 0
    return max(own + deepest, *map(_levels, options), 0)
