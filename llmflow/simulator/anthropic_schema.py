"""Schemas that Anthropic's structured answers do not accept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmflow.simulator.anthropic_errors import AnthropicError

_NUMBER_WORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "integer": _NUMBER_WORDS,
    "number": _NUMBER_WORDS,
    "string": ("minLength", "maxLength"),
    "array": ("maxItems", "uniqueItems"),
    "object": ("minProperties", "maxProperties", "patternProperties"),
}
_NAMED = ("$defs", "definitions")
_LISTED = ("anyOf", "allOf")


def check_schema(schema: Mapping[str, Any], place: str) -> None:
    """Raise the refusal of a schema that is outside the subset of structured answers."""
    for part in _parts(schema):
        _check_part(part, place)
    for name in _NAMED:
        _check_circles(schema, name, place)


def _check_part(part: Mapping[str, Any], place: str) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        return
    refused = [word for word in _REFUSED.get(kind, ()) if word in part]
    if refused:
        words, verb = ("properties", "are") if len(refused) > 1 else ("property", "is")
        named = ", ".join(refused) if len(refused) > 1 else f"'{refused[0]}'"
        raise _invalid(place, f"For '{kind}' type, {words} {named} {verb} not supported")
    if kind == "array" and part.get("minItems", 0) not in (0, 1):
        raise _invalid(
            place, "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
        )
    if kind == "object" and part.get("additionalProperties") is not False:
        raise _invalid(
            place, "For 'object' type, 'additionalProperties' must be explicitly set to false"
        )


def _check_circles(schema: Mapping[str, Any], name: str, place: str) -> None:
    """Refuse definitions that lead back to themselves."""
    parts = schema.get(name)
    if not isinstance(parts, dict):
        return
    prefix = f"#/{name}/"
    leads = {
        one: {str(inner["$ref"]).removeprefix(prefix) for inner in _parts(part) if "$ref" in inner}
        for one, part in parts.items()
        if isinstance(part, dict)
    }
    done: set[str] = set()

    def follow(one: str, way: tuple[str, ...]) -> None:
        if one in way:
            circle = " -> ".join((*way[way.index(one) :], one))
            raise _invalid(
                place,
                f"Circular reference detected in schema definitions: {circle}. "
                "Self-referencing or mutually-referencing definitions are not supported.",
            )
        if one in done:
            return
        for other in sorted(leads.get(one, ())):
            follow(other, (*way, one))
        done.add(one)

    for one in leads:
        follow(one, ())


def _parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every schema within a schema."""
    yield schema
    inner: list[Any] = [schema.get("items")]
    for name in ("properties", *_NAMED):
        named = schema.get(name)
        inner += named.values() if isinstance(named, dict) else ()
    for name in _LISTED:
        listed = schema.get(name)
        inner += listed if isinstance(listed, list) else ()
    for part in inner:
        if isinstance(part, dict):
            yield from _parts(part)


def _invalid(place: str, reason: str) -> AnthropicError:
    return AnthropicError(400, f"{place}: {reason}")
