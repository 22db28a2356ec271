"""Check of a former answer by the schema that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmflow.simulator.schema_value import with_described

_NO_SCHEMAS: Final = ("const", "enum", "default", "examples", "required")


def fits(schema: Mapping[str, Any], text: str) -> bool:
    """Return True if a text is JSON that a schema allows.

    Bounds in descriptions count.

    >>> schema = {"type": "object", "properties": {"n": {"description": "{minimum: 3}"}}}
    >>> fits(schema, '{"n": 3}'), fits(schema, '{"n": 2}'), fits(schema, "3 of them")
    (True, False, False)
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    import jsonschema_rs

    try:
        return jsonschema_rs.is_valid(
            _described(schema), value, validate_formats=True, retriever=_retrieve_nothing
        )
    except (ValueError, TypeError):
        return True  # it is no schema


def _retrieve_nothing(address: str) -> Any:
    raise ValueError(f"{address} is not read")


def _described(part: Any) -> Any:
    """Return a schema in which every part has the bounds of its description."""
    if isinstance(part, list):
        return [_described(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    inner = {name: each if name in _NO_SCHEMAS else _described(each) for name, each in part.items()}
    return with_described(inner)
