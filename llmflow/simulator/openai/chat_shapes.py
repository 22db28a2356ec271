"""Shapes and refusals of the OpenAI dialect's requests."""

from __future__ import annotations

import re

from pydantic_core import ErrorDetails, SchemaValidator
from pydantic_core import core_schema as core

from llmflow.simulator.openai.chat_wire import OpenAIError
from llmflow.simulator.shapes import (
    ANY,
    FLAG,
    LIST,
    OBJECT,
    TEXT,
    WHOLE,
    by_kind,
    by_type,
    either,
    first_errors,
    nullable,
    one_of,
    place,
    table,
)

_NAME = core.str_schema(pattern="^[a-zA-Z0-9_-]+$", max_length=64)


def _part_kind(part: object) -> str:
    return "text" if by_type(part) == "text" else "other"


_PARTS = ("text", "image_url", "input_audio", "refusal", "audio", "file")
_PART = by_kind(
    _part_kind,
    {
        "text": table({"text": TEXT}, closed=False),
        "other": table({"type": one_of(*_PARTS)}, closed=False),
    },
)
_CONTENT = either("one of a string or array of objects", str=TEXT, list=core.list_schema(_PART))
_ROLE = one_of("system", "assistant", "user", "function", "tool", "developer")
# The last two are of an answer that is sent back as the official SDK has read it.
_MORE = (
    *("name", "tool_calls", "tool_call_id", "function_call"),
    *("refusal", "audio", "annotations", "parsed"),
)
_MESSAGE = table({"role": _ROLE}, {"content": nullable(_CONTENT), **dict.fromkeys(_MORE, ANY)})
_PLAIN = table({"type": ANY})
_SCHEMA = table({"name": _NAME, "schema": OBJECT}, {"strict": ANY, "description": ANY})
_FORMAT = by_kind(
    by_type,
    {
        "text": _PLAIN,
        "json_object": _PLAIN,
        "json_schema": table({"type": ANY, "json_schema": _SCHEMA}),
    },
)
_FUNCTION = table(
    {"name": _NAME}, {"description": ANY, "parameters": nullable(OBJECT), "strict": ANY}
)
_CUSTOM = table({"name": _NAME}, closed=False)
_TOOL = by_kind(
    by_type,
    {
        "function": table({"type": ANY, "function": _FUNCTION}),
        "custom": table({"type": ANY, "custom": _CUSTOM}),
    },
)
_NAMED = table({"name": TEXT}, closed=False)
_SOME_TOOLS = core.list_schema(OBJECT, min_length=1)
_ALLOWED = table({"mode": one_of("auto", "required"), "tools": _SOME_TOOLS}, closed=False)


_CHOSEN = by_kind(
    by_type,
    {
        "allowed_tools": table({"allowed_tools": _ALLOWED}, closed=False),
        "custom": table({"custom": _NAMED}, closed=False),
        "function": table({"function": _NAMED}, closed=False),
    },
)
_CHOICE = either("one of a string or object", str=one_of("none", "auto", "required"), dict=_CHOSEN)
_STOPS = core.list_schema(TEXT, max_length=4)
_PENALTY = core.float_schema(ge=-2, le=2)
_COUNT = core.int_schema(ge=1)
_FIELDS = {
    "audio": OBJECT,
    "frequency_penalty": _PENALTY,
    "function_call": either("one of a string or object", str=TEXT, dict=OBJECT),
    "functions": LIST,
    "logit_bias": OBJECT,
    "logprobs": FLAG,
    "max_completion_tokens": _COUNT,
    "max_tokens": _COUNT,
    "metadata": OBJECT,
    "modalities": LIST,
    "moderation": OBJECT,
    "n": core.int_schema(ge=1, le=128),
    "parallel_tool_calls": FLAG,
    "prediction": OBJECT,
    "presence_penalty": _PENALTY,
    "prompt_cache_key": TEXT,
    "prompt_cache_options": OBJECT,
    "prompt_cache_retention": one_of("in_memory", "in-memory", "24h"),
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": _FORMAT,
    "safety_identifier": TEXT,
    "seed": WHOLE,
    "service_tier": one_of("auto", "default", "flex", "scale", "priority", "fast"),
    "stop": either("one of a string or array of strings", str=TEXT, list=_STOPS),
    "store": FLAG,
    "stream": FLAG,
    "stream_options": table({}, {"include_usage": ANY, "include_obfuscation": ANY}),
    "temperature": core.float_schema(ge=0, le=2),
    "tool_choice": _CHOICE,
    "tools": core.list_schema(_TOOL, min_length=1),
    "top_logprobs": core.int_schema(ge=0, le=20),
    "top_p": core.float_schema(ge=0, le=1),
    "user": TEXT,
    "verbosity": one_of("low", "medium", "high"),
    "web_search_options": OBJECT,
}
BODY = SchemaValidator(
    table(
        {"model": TEXT, "messages": core.list_schema(_MESSAGE, min_length=1)},
        {name: nullable(shape) for name, shape in _FIELDS.items()},
    )
)


_LABELS = core.dict_schema(
    core.str_schema(max_length=64), core.str_schema(max_length=512), max_length=16
)
JOB = SchemaValidator(
    table(
        {
            "input_file_id": TEXT,
            "endpoint": one_of("/v1/chat/completions"),
            "completion_window": one_of("24h"),
        },
        {"metadata": nullable(_LABELS)},
        closed=False,
    )
)


def check_shape(shape: SchemaValidator, body: object) -> None:
    """Raise the refusal of a request of another shape than this."""
    errors = first_errors(shape, body)
    if not errors:
        return
    first = errors[0]
    unknown = [
        str(error["loc"][-1])
        for error in errors
        if error["type"] == "extra_forbidden" and len(error["loc"]) == 1
    ]
    if unknown and "model" not in first["loc"] and "messages" not in first["loc"]:
        plural = "s" if len(unknown) > 1 else ""
        named = ", ".join(unknown)
        raise OpenAIError(400, f"Unrecognized request argument{plural} supplied: {named}")
    parts = place(first)
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    raise _refusal(first, shown.removeprefix("."), str(parts[-1]))


_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_EXPECTED = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "int_type": "an integer",
    "float_type": "a decimal",
    "list_type": "an array of objects",
    "dict_type": "an object",
    "literal_error": "a string",
}
# Of an error of pydantic's: the message after the name of the field, and the code.
_BOUNDS = {
    "greater_than_equal": (
        "{kind} below minimum value. Expected a value >= {ge:g}, but got {value} instead.",
        "{kind}_below_min_value",
    ),
    "less_than_equal": (
        "{kind} above maximum value. Expected a value <= {le:g}, but got {value} instead.",
        "{kind}_above_max_value",
    ),
    "too_short": (
        "empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "empty_array",
    ),
    "too_long": (
        (
            "array too long. Expected an array with maximum length {max_length}, but got "
            "an array with length {actual_length} instead."
        ),
        "array_above_max_length",
    ),
    "string_too_long": (
        (
            "string too long. Expected a string with maximum length {max_length}, "
            "but got a string with length {size} instead."
        ),
        "string_above_max_length",
    ),
    "string_pattern_mismatch": (
        "string does not match pattern. Expected a string that matches the pattern '{pattern}'.",
        "invalid_value",
    ),
}


def _refusal(error: ErrorDetails, param: str, last: str) -> OpenAIError:
    kind, value, context = error["type"], error["input"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        message = f"Unknown parameter: '{param}'."
        return OpenAIError(400, message, param=param, code="unknown_parameter")
    if kind == "union_tag_not_found" and isinstance(value, dict):
        param, kind = f"{param}.type", "missing"
    if kind == "missing" or (value is None and not param.endswith("]")):
        message = f"Missing required parameter: '{param}'."
        return OpenAIError(400, message, param=param, code="missing_required_parameter")
    if kind == "union_tag_invalid":
        return _bad_value(f"{param}.type", by_type(value), context["expected_tags"])
    if kind == "literal_error" and isinstance(value, str):
        return _bad_value(param, value, context["expected"])
    if kind in _BOUNDS:
        facts = {"value": value, "kind": "integer", "size": len(str(value)), **context}
        if isinstance(facts.get("ge", facts.get("le")), float):
            facts["kind"] = "decimal"
        text, code = (each.format(**facts) for each in _BOUNDS[kind])
        return OpenAIError(400, f"Invalid '{param}': {text}", param=param, code=code)
    if kind == "one_of":
        expected = error["msg"]
    elif last == "modalities":
        expected = "an array of strings"
    else:
        expected = _EXPECTED.get(kind, "an object")
    got = _NAMES.get(type(value), "something else")
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return OpenAIError(400, message, param=param, code="invalid_type")


def _bad_value(param: str, value: object, allowed: str) -> OpenAIError:
    """Return the refusal of a value; pydantic has listed those that are allowed."""
    *names, last = [f"'{name}'" for name in re.findall(r"'<?([^'<>]+)>?'", allowed)]
    listed = ", ".join([*names, f"and {last}" if names else last])
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return OpenAIError(400, message, param=param, code="invalid_value")


_ROW = SchemaValidator(
    table(
        {
            "custom_id": core.str_schema(min_length=1),
            "method": one_of("POST"),
            "url": TEXT,
            "body": table({"model": TEXT}, closed=False),
        },
        closed=False,
    )
)


def row_problem(row: object) -> tuple[str, str, str] | None:
    """Return code, message and field of a row's first mistake."""
    for error in first_errors(_ROW, row):
        kind, param = error["type"], ".".join(map(str, place(error)))
        if kind == "missing" or error["input"] is None:
            message = f"Missing required parameter: '{param}'."
            return "missing_required_parameter", message, param
        expected = "POST" if kind == "literal_error" else _EXPECTED.get(kind, "a string")
        return "invalid_request", f"{param} must be {expected}.", param
    return None
