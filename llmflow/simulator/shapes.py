"""Shapes of requests, checked by pydantic's core, as all dialects write them.

Imported with the first request: many programs import the simulator and send it none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import CoreSchema, ErrorDetails, SchemaValidator, ValidationError
from pydantic_core import core_schema as core

ANY, TEXT, FLAG, WHOLE = core.any_schema(), core.str_schema(), core.bool_schema(), core.int_schema()
OBJECT = core.dict_schema(core.str_schema())
LIST = core.list_schema()
nullable = core.nullable_schema


def table(
    required: Mapping[str, CoreSchema],
    optional: Mapping[str, CoreSchema] | None = None,
    *,
    closed: bool = True,
) -> CoreSchema:
    """Return the shape of an object, closed to further fields."""
    fields = {name: core.typed_dict_field(shape) for name, shape in required.items()}
    for name, shape in (optional or {}).items():
        fields[name] = core.typed_dict_field(shape, required=False)
    return core.typed_dict_schema(fields, extra_behavior="forbid" if closed else "allow")


def one_of(*values: str) -> CoreSchema:
    """Return the shape of a text that is one of these."""
    return core.literal_schema(list(values))


def either(message: str, **shapes: CoreSchema) -> CoreSchema:
    """Choose a shape by type, such as ``str``, or an error."""
    return core.tagged_union_schema(
        {f"<{name}>": shape for name, shape in shapes.items()},
        lambda value: f"<{type(value).__name__}>",
        custom_error_type="one_of",
        custom_error_message=message,
    )


def by_kind(
    kind: Callable[[Any], str | None], shapes: Mapping[str, CoreSchema], *, shown: bool = False
) -> CoreSchema:
    """Choose a shape by kind, `shown` in errors' places or not."""
    if shown:
        return core.tagged_union_schema(dict(shapes), kind)
    return core.tagged_union_schema(
        {f"<{name}>": shape for name, shape in shapes.items()},
        lambda value: None if (found := kind(value)) is None else f"<{found}>",
    )


def by_type(value: object) -> str | None:
    """Return the ``type`` of an object, None if it has none."""
    kind = value.get("type") if isinstance(value, dict) else None
    return None if kind is None else str(kind)


def first_errors(shape: SchemaValidator, value: object) -> list[ErrorDetails]:
    """Return a value's mistakes, in the order of its shape."""
    try:
        shape.validate_python(value, strict=True)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def place(error: ErrorDetails) -> list[str | int]:
    """Return where an error is, without the types chosen."""
    return [part for part in error["loc"] if not str(part).startswith("<")]
