"""Fields of the OpenAI dialect, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmflow.simulator.openai.chat_wire import OpenAIError

_REFUSED = (
    *("allOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas"),
    *("default", "examples", "propertyNames", "patternProperties", "unevaluatedProperties"),
    *("minProperties", "maxProperties", "uniqueItems", "unevaluatedItems"),
    *("contains", "minContains", "maxContains"),
)
_STRICT_FORMATS = (
    *("date-time", "time", "date", "duration"),
    *("email", "hostname", "ipv4", "ipv6", "uuid"),
)
_NESTED_MAPS = ("properties", "$defs", "definitions")


def check_strict(schema: Mapping[str, Any], name: str, *, param: str = "response_format") -> None:
    """Raise the refusal of a schema outside ``strict: true``.

    Args:
        schema: the schema.
        name: what it is called in the request.
        param: where it is in the request; a tool's own schema is in ``tools[…]``.
    """
    try:
        if schema.get("type") != "object" or "anyOf" in schema:
            raise _SubsetError((), "schema must be a JSON Schema of 'type: \"object\"'")
        for path, part in _parts(schema, ()):
            _check_part(path, part)
    except _SubsetError as error:
        raise _bad_schema(name, error.path, error.reason, param) from None


class _SubsetError(Exception):
    """A part of a schema is outside the subset."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def _check_part(path: tuple[str, ...], part: Mapping[str, Any]) -> None:
    for key in _REFUSED:
        if key in part:
            raise _SubsetError(path, f"'{key}' is not permitted")
    if "$ref" in part and len(part) > 1:
        extra = next(key for key in part if key != "$ref")
        raise _SubsetError(path, f"$ref cannot have keywords {{'{extra}'}}")
    kind = part.get("type")
    if kind == "array" and not isinstance(part.get("items"), dict):
        raise _SubsetError(path, "array schema missing items")
    if "format" in part and part["format"] not in _STRICT_FORMATS:
        raise _SubsetError(path, f"'{part['format']}' is not a valid format")
    if kind != "object" and "properties" not in part:
        return
    if part.get("additionalProperties") is not False:
        raise _SubsetError(
            path, "'additionalProperties' is required to be supplied and to be false"
        )
    properties, required = part.get("properties") or {}, part.get("required") or []
    for key in properties:
        if key not in required:
            raise _SubsetError(
                path,
                "'required' is required to be supplied and to be an array including every key "
                f"in properties. Missing '{key}'",
            )


def _parts(
    schema: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield every schema within a schema, with its place."""
    yield path, schema
    for key in _NESTED_MAPS:
        inner = schema.get(key)
        if isinstance(inner, dict):
            for name, part in inner.items():
                if isinstance(part, dict):
                    yield from _parts(part, (*path, key, name))
    items = schema.get("items")
    if isinstance(items, dict):
        yield from _parts(items, (*path, "items"))
    options = schema.get("anyOf")
    for index, part in enumerate(options if isinstance(options, list) else ()):
        if isinstance(part, dict):
            yield from _parts(part, (*path, "anyOf", str(index)))


def _bad_schema(name: str, path: tuple[str, ...], reason: str, param: str) -> OpenAIError:
    place = ", ".join(f"'{part}'" for part in path) + ("," if len(path) == 1 else "")
    is_tool = param != "response_format"
    what = "function" if is_tool else "response_format"
    return OpenAIError(
        400,
        f"Invalid schema for {what} '{name}': In context=({place}), {reason}.",
        param=param,
        code="invalid_function_parameters" if is_tool else "invalid_json_schema",
    )


_TYPE_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_STREAM_FIELDS = frozenset({"include_usage", "include_obfuscation"})
_FORMAT_FIELDS = frozenset({"name", "schema", "strict", "description"})
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})
_FORMATS = ("text", "json_object", "json_schema")
_NAME = re.compile(r"[a-zA-Z0-9_-]+\Z")
_MOST_NAME = 64
_MOST_STOPS = 4
_CHOICES = ("none", "auto", "required")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_ENUMS = {
    "reasoning_effort": _EFFORTS,
    "verbosity": ("low", "medium", "high"),
    "service_tier": ("auto", "default", "flex", "scale", "priority", "fast"),
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
}
_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "audio": (dict, "an object"),
    "function_call": ((str, dict), "one of a string or object"),
    "functions": (list, "an array of objects"),
    "logit_bias": (dict, "an object"),
    "logprobs": (bool, "a boolean"),
    "metadata": (dict, "an object"),
    "modalities": (list, "an array of strings"),
    "moderation": (dict, "an object"),
    "parallel_tool_calls": (bool, "a boolean"),
    "prediction": (dict, "an object"),
    "prompt_cache_key": (str, "a string"),
    "prompt_cache_options": (dict, "an object"),
    "response_format": (dict, "an object"),
    "safety_identifier": (str, "a string"),
    "seed": (int, "an integer"),
    "stop": ((str, list), "one of a string or array of strings"),
    "store": (bool, "a boolean"),
    "stream": (bool, "a boolean"),
    "stream_options": (dict, "an object"),
    "tool_choice": ((str, dict), "one of a string or object"),
    "tools": (list, "an array of objects"),
    "user": (str, "a string"),
    "web_search_options": (dict, "an object"),
}
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_INTEGERS: Mapping[str, tuple[int, int | None]] = {
    "max_tokens": (1, None),
    "max_completion_tokens": (1, None),
    "n": (1, 128),
    "top_logprobs": (0, 20),
}
_EVERYWHERE = frozenset({"model", "messages"})
FIELDS = _EVERYWHERE | _KINDS.keys() | _NUMBERS.keys() | _INTEGERS.keys() | _ENUMS.keys()


def invalid(message: str, param: str | None = None, code: str | None = None) -> OpenAIError:
    """Return a 400."""
    return OpenAIError(400, message, param=param, code=code)


def missing(param: str) -> OpenAIError:
    """Return the 400 for a field that is not there."""
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, expected: str, value: object) -> OpenAIError:
    """Return the 400 for a value of another type."""
    got = _TYPE_NAMES.get(type(value), "something else")
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return invalid(message, param, "invalid_type")


def bad_value(param: str, value: object, allowed: tuple[str, ...]) -> OpenAIError:
    """Return the 400 for a value that is not allowed."""
    names = [f"'{name}'" for name in allowed]
    listed = f"{', '.join(names[:-1])}, and {names[-1]}"
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return invalid(message, param, "invalid_value")


def known_only(part: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    """Raise the 400 for the first unknown field of a part."""
    for name in part:
        if name not in known:
            param = f"{place}.{name}"
            raise invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")


def check_fields(body: Mapping[str, Any]) -> None:
    """Raise the refusal of unknown fields and wrong values."""
    if not body.keys() <= FIELDS:
        unknown = [name for name in body if name not in FIELDS]
        plural = "s" if len(unknown) > 1 else ""
        raise invalid(f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}")
    for name, value in body.items():
        if value is None or name in _EVERYWHERE:
            continue
        if name in _INTEGERS:
            _check_integer(name, value, body)
        elif name in _NUMBERS:
            _check_number(name, value)
        elif name in _ENUMS:
            if not isinstance(value, str):
                raise wrong_type(name, "a string", value)
            if value not in _ENUMS[name]:
                raise bad_value(name, value, _ENUMS[name])
        else:
            kind, words = _KINDS[name]
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise wrong_type(name, words, value)
            check = _CHECKS.get(name)
            if check is not None:
                check(value, body)


def _check_integer(name: str, value: object, body: Mapping[str, Any]) -> None:
    low, high = _INTEGERS[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if name == "top_logprobs" and not body.get("logprobs"):
        raise invalid(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            "top_logprobs",
        )
    if value >= low and (high is None or value <= high):
        return
    below = value < low
    side, sign, bound = ("below minimum", ">=", low) if below else ("above maximum", "<=", high)
    raise invalid(
        f"Invalid '{name}': integer {side} value. "
        f"Expected a value {sign} {bound}, but got {value} instead.",
        name,
        "integer_below_min_value" if below else "integer_above_max_value",
    )


def _check_number(name: str, value: object) -> None:
    low, high = _NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, "a decimal", value)
    if low <= value <= high:
        return
    side, sign, bound = (
        ("above maximum", "<=", high) if value > high else ("below minimum", ">=", low)
    )
    raise invalid(
        f"Invalid '{name}': decimal {side} value. "
        f"Expected a value {sign} {bound:g}, but got {value} instead.",
        name,
        "decimal_above_max_value" if value > high else "decimal_below_min_value",
    )


def _check_stop(stop: str | list[Any], _: Mapping[str, Any]) -> None:
    if isinstance(stop, str):
        return
    if len(stop) > _MOST_STOPS:
        raise invalid(
            f"Invalid 'stop': array too long. Expected an array with maximum length "
            f"{_MOST_STOPS}, but got an array with length {len(stop)} instead.",
            "stop",
            "array_above_max_length",
        )
    for index, text in enumerate(stop):
        if not isinstance(text, str):
            raise wrong_type(f"stop[{index}]", "a string", text)


def _check_stream_options(options: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    if not body.get("stream"):
        raise invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
        )
    known_only(options, _STREAM_FIELDS, "stream_options")


def _check_name(name: object, place: str) -> None:
    if name is None:
        raise missing(place)
    if not isinstance(name, str):
        raise wrong_type(place, "a string", name)
    if not _NAME.match(name):
        raise invalid(
            f"Invalid '{place}': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            place,
            "invalid_value",
        )
    if len(name) > _MOST_NAME:
        raise invalid(
            f"Invalid '{place}': string too long. Expected a string with maximum length "
            f"{_MOST_NAME}, but got a string with length {len(name)} instead.",
            place,
            "string_above_max_length",
        )


def _check_format(wanted: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    kind = wanted.get("type")
    if kind is None:
        raise missing("response_format.type")
    if kind not in _FORMATS:
        raise bad_value("response_format.type", kind, _FORMATS)
    has_schema = kind == "json_schema"
    fields = {"type", "json_schema"} if has_schema else {"type"}
    known_only(wanted, frozenset(fields), "response_format")
    if has_schema:
        _check_named_schema(wanted.get("json_schema"))
    elif kind == "json_object" and "json" not in str(body.get("messages")).lower():
        raise invalid(
            "'messages' must contain the word 'json' in some form, "
            "to use 'response_format' of type 'json_object'.",
            "messages",
        )


def _check_named_schema(outer: object) -> None:
    place = "response_format.json_schema"
    if outer is None:
        raise missing(place)
    if not isinstance(outer, dict):
        raise wrong_type(place, "an object", outer)
    _check_name(outer.get("name"), f"{place}.name")
    known_only(outer, _FORMAT_FIELDS, place)
    schema = outer.get("schema")
    if schema is None:
        raise missing(f"{place}.schema")
    if not isinstance(schema, dict):
        raise wrong_type(f"{place}.schema", "an object", schema)
    if outer.get("strict"):
        check_strict(schema, outer["name"])


def _check_tools(tools: list[Any], _: Mapping[str, Any]) -> None:
    if not tools:
        raise invalid(
            "Invalid 'tools': empty array. "
            "Expected an array with minimum length 1, but got an empty array instead.",
            "tools",
            "empty_array",
        )
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong_type(place, "an object", tool)
        kind = tool.get("type")
        if kind is None:
            raise missing(f"{place}.type")
        if kind not in ("function", "custom"):
            raise bad_value(f"{place}.type", kind, ("function", "custom"))
        known_only(tool, frozenset({"type", kind}), place)
        inner = tool.get(kind)
        if inner is None:
            raise missing(f"{place}.{kind}")
        if not isinstance(inner, dict):
            raise wrong_type(f"{place}.{kind}", "an object", inner)
        _check_name(inner.get("name"), f"{place}.{kind}.name")
        if kind == "function":
            known_only(inner, _FUNCTION_FIELDS, f"{place}.function")
            if inner.get("strict"):
                param = f"{place}.function.parameters"
                check_strict(inner.get("parameters") or {}, inner["name"], param=param)


def _names(tools: list[Any]) -> set[str | None]:
    return {chat_tool_name(tool) for tool in tools}


def _check_choice(choice: str | Mapping[str, Any], body: Mapping[str, Any]) -> None:
    tools = body.get("tools")
    if not tools:
        raise invalid(
            "Invalid value for 'tool_choice': "
            "'tool_choice' is only allowed when 'tools' are specified.",
            "tool_choice",
        )
    _check_tools(tools, body)
    if isinstance(choice, str):
        if choice not in _CHOICES:
            raise bad_value("tool_choice", choice, _CHOICES)
        return
    kind = choice.get("type")
    if kind is None:
        raise missing("tool_choice.type")
    if kind == "allowed_tools":
        _check_allowed(choice.get(kind), tools)
        return
    if kind not in ("function", "custom"):
        raise bad_value("tool_choice.type", kind, ("allowed_tools", "custom", "function"))
    inner = choice.get(kind)
    name = inner.get("name") if isinstance(inner, dict) else None
    if name is None:
        raise missing(f"tool_choice.{kind}.name")
    if not isinstance(name, str):
        raise wrong_type(f"tool_choice.{kind}.name", "a string", name)
    if name not in _names(tools):
        raise invalid(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")


def _check_allowed(allowed: object, tools: list[Any]) -> None:
    place = "tool_choice.allowed_tools"
    if not isinstance(allowed, dict):
        raise missing(place) if allowed is None else wrong_type(place, "an object", allowed)
    if allowed.get("mode") not in ("auto", "required"):
        raise bad_value(f"{place}.mode", allowed.get("mode"), ("auto", "required"))
    listed = allowed.get("tools")
    if not isinstance(listed, list) or not listed:
        raise wrong_type(f"{place}.tools", "an array of at least one object", listed)
    known = _names(tools)
    for index, tool in enumerate(listed):
        name = chat_tool_name(tool) if isinstance(tool, dict) else None
        if not isinstance(name, str) or name not in known:
            raise invalid(
                f"Tool choice '{name}' not found in 'tools' parameter.", f"{place}.tools[{index}]"
            )


def _check_parallel(_: bool, body: Mapping[str, Any]) -> None:
    if not body.get("tools"):
        raise invalid(
            "Invalid value for 'parallel_tool_calls': "
            "'parallel_tool_calls' is only allowed when 'tools' are specified.",
            "parallel_tool_calls",
        )


_CHECKS: Mapping[str, Any] = {
    "stop": _check_stop,
    "stream_options": _check_stream_options,
    "response_format": _check_format,
    "tools": _check_tools,
    "tool_choice": _check_choice,
    "parallel_tool_calls": _check_parallel,
}


def chat_tool_name(tool: Mapping[str, Any]) -> str | None:
    """Return the name in a tool, or in a reference to one."""
    inner = tool.get(str(tool.get("type")))
    return inner.get("name") if isinstance(inner, Mapping) else None
