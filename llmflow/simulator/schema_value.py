"""Plain values that a JSON schema allows, and the schemas within it."""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from llmflow.simulator.pattern_text import matching

_BOUND_TEXTS: Final = ("pattern", "format")
_BOUND_WORDS: Final = (
    *_BOUND_TEXTS,
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems"),
    *("minProperties", "maxProperties", "prefixItems"),
)
_DESCRIBED: Final = re.compile(r"(?:\A|\n\n)\{(\w+: .*)\}\Z", re.DOTALL)
_NEXT_BOUND: Final = re.compile(r", (?=[A-Za-z]+: )")


def with_described(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    r"""Return a schema with the bounds that its description ends with.

    >>> with_described({"type": "integer", "description": "Size\n\n{minimum: 3}"})["minimum"]
    3
    """
    description = schema.get("description")
    if not isinstance(description, str) or not description.endswith("}"):
        return schema
    found = _DESCRIBED.search(description)
    if found is None:
        return schema
    bounds: dict[str, Any] = {}
    parts = _NEXT_BOUND.split(found[1])
    while parts:
        name, _, value = parts.pop(0).partition(": ")
        if name in _BOUND_TEXTS:
            bounds[name] = value
        elif name in _BOUND_WORDS:
            # A list of schemas may have descriptions with bounds of their own.
            for end in range(len(parts) + 1):
                try:
                    bounds[name] = ast.literal_eval(", ".join((value, *parts[:end])))
                except (ValueError, SyntaxError):
                    continue
                del parts[:end]
                break
    return {**bounds, **schema}


_MOST_DEPTH = 24
# Below this, what may be left out is, and the shortest of several alternatives is taken.
_PLAIN_DEPTH = 6
FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "binary": "",
    "byte": "",
}
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
    "null": type(None),
}
_WORDS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "string": ("format", "minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "multipleOf"),
}


class _EndlessError(Exception):
    """A schema for which no value of bounded depth is found."""


def fill_schema(schema: Mapping[str, Any], text: str, filler: type[Filler] | None = None) -> Any:
    """Return the plainest value that a schema allows, containing `text`.

    References, unions, ranges, lengths, formats and recursion are followed, ranges and
    lengths also where Anthropic's SDK has put them into the description.

    >>> fill_schema({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 3}}}, "")
    3
    """
    try:
        return (filler or Filler)(schema, text).value(schema, 0)
    except (_EndlessError, TypeError, ValueError, ArithmeticError):
        return {}  # such as a bound that is no number


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of a schema with all that it refers to.

    Bounds in its description count.

    >>> root = {"$defs": {"n": {"description": "{minimum: 3}"}}}
    >>> resolved({"$ref": "#/$defs/n"}, root)["minimum"]
    3
    """
    try:
        return with_described(Filler(root, "")._merged(schema))
    except _EndlessError:
        return {}


class Filler:
    """Fills a schema with values, the plainest where it leaves a choice.

    Args:
        root: the whole schema.
        text: what texts are to contain.
    """

    def __init__(self, root: Mapping[str, Any], text: str) -> None:
        self._root, self.text = root, text

    # Choices, for those who choose otherwise.

    def choice(self, options: list[Any]) -> Any:
        """Return one of the values of an enum."""
        return options[0]

    def flag(self) -> bool:
        """Return a truth value."""
        return True

    def number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        """Return the number next to 0 that is in range."""
        return plain_number(schema, whole=whole)

    def string(self, schema: Mapping[str, Any]) -> str:
        """Return the text, or a form of text that a schema wants."""
        return plain_string(schema, self.text)

    def items(self, least: int, most: int) -> int:
        """Return how many items a list has that may have more."""
        return min(max(least, 1), most)

    def item(self, schema: Mapping[str, Any], number: int) -> Any:
        """Return an item of a list, None to make it as usual."""
        del schema, number

    def value(self, schema: object, depth: int) -> Any:
        """Return a value that a part of the schema allows."""
        if not isinstance(schema, Mapping):
            return self.text  # `true`, or nothing that is a schema
        if depth > _MOST_DEPTH:
            raise _EndlessError
        schema = with_described(self._merged(schema))
        if "const" in schema:
            return schema["const"]
        options = schema.get("enum")
        if isinstance(options, list) and options:
            return self.choice([one for one in options if fits_type(one, schema)] or options)
        if "default" in schema and fits_type(schema["default"], schema):
            return schema["default"]
        for key in ("anyOf", "oneOf"):
            options = schema.get(key)
            if isinstance(options, list) and options:
                rest = {name: part for name, part in schema.items() if name != key}
                return self._one_of(rest, options, depth)
        return self._typed(schema, depth)

    def _merged(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a schema merged with its references and ``allOf``."""
        for _ in range(_MOST_DEPTH):
            if "$ref" in schema:
                parts: list[Any] = [self._target(schema["$ref"])]
                skipped = "$ref"
            elif isinstance(schema.get("allOf"), list):
                parts, skipped = schema["allOf"], "allOf"
            else:
                return schema
            merged = {name: part for name, part in schema.items() if name != skipped}
            for part in parts:
                if isinstance(part, Mapping):
                    merged = _both(merged, self._merged(part) if skipped == "allOf" else part)
            schema = merged
        raise _EndlessError

    def _target(self, reference: object) -> Any:
        part: Any = self._root
        for name in str(reference).lstrip("#").split("/"):
            if not name:
                continue
            key = unquote(name).replace("~1", "/").replace("~0", "~")
            try:
                part = part[int(key)] if isinstance(part, list) else part[key]
            except (KeyError, IndexError, ValueError, TypeError):
                return {}
        return part

    def _one_of(self, rest: Mapping[str, Any], options: list[Any], depth: int) -> Any:
        """Return a value of the first alternative that has one."""
        if depth >= _PLAIN_DEPTH:
            options = sorted(options, key=self._weight)
        for option in options:
            part = _both(rest, option) if isinstance(option, Mapping) else rest
            try:
                return self.value(part, depth + 1)
            except _EndlessError:
                continue
        raise _EndlessError

    def _weight(self, schema: object) -> int:
        if not isinstance(schema, Mapping):
            return 0
        try:
            kind = self._merged(schema).get("type")
        except _EndlessError:
            return 9
        return {"null": 0, "string": 1, "integer": 1, "number": 1, "boolean": 1}.get(str(kind), 2)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = "null" if "null" in kind and depth >= _PLAIN_DEPTH else (*kind, "null")[0]
        match kind or _guessed(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self.string(schema)
            case "integer" | "number":
                return self.number(schema, whole=kind == "integer")
            case "boolean":
                return self.flag()
        return None

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        filled: dict[str, Any] = {}
        for name, part in properties.items():
            if depth >= _PLAIN_DEPTH and name not in required:
                continue
            try:
                filled[name] = self.value(part, depth + 1)
            except _EndlessError:
                if name in required:
                    raise
        more = schema.get("additionalProperties", {})
        for name in required:
            if isinstance(name, str) and name not in filled:
                filled[name] = self.value(more, depth + 1)
        least = _count(schema.get("minProperties"))
        # A dictionary has an entry where there is room for one.
        one = not properties and isinstance(more, Mapping) and bool(more) and depth < _PLAIN_DEPTH
        for number in range(max(least, int(one)) - len(filled)):
            try:
                filled[f"key{number + 1}"] = self.value(more, depth + 1)
            except _EndlessError:
                if number < least:
                    raise
        return filled

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        least = max(_count(schema.get("minItems")), _count(schema.get("minContains")))
        filled = [self.value(part, depth + 1) for part in first]
        items = schema.get("items", schema.get("contains"))
        most = schema.get("maxItems")
        most = most if isinstance(most, int) else sys.maxsize
        free = isinstance(items, Mapping) and depth < _PLAIN_DEPTH and not first
        wanted = self.items(least, most) if free else min(least, most)
        for number in range(wanted - len(filled)):
            try:
                filled.append(self._item(items, number, schema, depth))
            except _EndlessError:
                if len(filled) < least:
                    raise
                break
        return filled

    def _one_item(self, items: object, number: int, depth: int) -> Any:
        own = None
        if isinstance(items, Mapping):
            own = self.item(with_described(self._merged(items)), number)
        return self.value(items, depth + 1) if own is None else own

    def _item(self, items: object, number: int, schema: Mapping[str, Any], depth: int) -> Any:
        value = self._one_item(items, number, depth)
        if not number or not schema.get("uniqueItems"):
            return value
        part = self._merged(items) if isinstance(items, Mapping) else {}
        options = part.get("enum")
        if isinstance(options, list) and number < len(options):
            return options[number]
        if isinstance(value, bool):
            return not value
        if isinstance(value, (int, float)):
            return value + number * (part.get("multipleOf") or 1)
        return f"{number + 1} {value}"[: part.get("maxLength")] if isinstance(value, str) else value


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two schemas, as far as that is simple."""
    merged = {**other, **one}
    for name in one.keys() & other.keys():
        mine, theirs = one[name], other[name]
        if name == "properties" and isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            shared = {
                key: {"allOf": [theirs[key], mine[key]]} for key in theirs.keys() & mine.keys()
            }
            merged[name] = {**theirs, **mine, **shared}
        elif name == "required" and isinstance(mine, list) and isinstance(theirs, list):
            merged[name] = [*theirs, *(key for key in mine if key not in theirs)]
        elif name in ("minimum", "exclusiveMinimum", "minLength", "minItems"):
            merged[name] = max(mine, theirs)
        elif name in ("maximum", "exclusiveMaximum", "maxLength", "maxItems"):
            merged[name] = min(mine, theirs)
        elif name == "enum" and isinstance(mine, list) and isinstance(theirs, list):
            merged[name] = [value for value in theirs if value in mine]
        elif name in ("anyOf", "oneOf", "allOf") and isinstance(mine, list):
            merged[name] = mine
            merged["allOf"] = [*merged.get("allOf", []), {name: theirs}]
    return merged


def _guessed(schema: Mapping[str, Any]) -> str:
    """Guess the type of a schema from its other words."""
    fits = (kind for kind, words in _WORDS.items() if any(word in schema for word in words))
    return next(fits, "object")


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def fits_type(value: object, schema: Mapping[str, Any]) -> bool:
    """Return True if a value fits a schema's type and bounds."""
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        right = _TYPES.get(str(kind), object)
        wrong_bool = isinstance(value, bool) and kind in ("integer", "number")
        if isinstance(value, right) and not wrong_bool:
            break
    else:
        return False
    if isinstance(value, str):
        return bool(
            _count(schema.get("minLength")) <= len(value) <= schema.get("maxLength", math.inf)
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = bounds_of(schema, 1e-9)
        return low <= value <= high
    return True


def bounds_of(schema: Mapping[str, Any], step: float) -> tuple[float, float]:
    """Return the range of numbers; `step` leads away from excluded ends."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(over, (int, float)) and not isinstance(over, bool):
        low = max(low, over + step)
    if isinstance(under, (int, float)) and not isinstance(under, bool):
        high = min(high, under - step)
    return low, high


def plain_number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    """Return the number next to 0 that is in range."""
    step = schema.get("multipleOf")
    factor: Any = step if isinstance(step, (int, float)) and step > 0 else None
    low, high = bounds_of(schema, factor or (1 if whole else 1e-3))
    if not whole and factor is None and low > high:  # a narrow open range: its middle
        low, high = bounds_of(schema, 0)
        return (low + high) / 2
    value: Any = 0 if low <= 0 <= high else (low if low > 0 else high)
    if factor is not None:
        times = value / factor
        value = (math.ceil(times - 1e-9) if value > 0 else math.floor(times)) * factor
    elif whole:
        value = math.ceil(value) if value > 0 else math.floor(value)
    return value if whole else float(value)


def plain_string(schema: Mapping[str, Any], text: str) -> str:
    """Return a text that a schema allows."""
    name, pattern = schema.get("format"), schema.get("pattern")
    if isinstance(pattern, str):
        return matching(pattern, text, least=_count(schema.get("minLength")))
    if name in FORMATS:
        return FORMATS[name]
    least, most = _count(schema.get("minLength")), schema.get("maxLength")
    if len(text) < least:
        text += "." * (least - len(text))
    return text[:most] if isinstance(most, int) else text


def schema_parts(
    schema: Mapping[str, Any], *, lists: tuple[str, ...] = ("anyOf",), path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield every schema within a schema, with its place.

    >>> [path for path, _ in schema_parts({"properties": {"a": {"items": {}}}})]
    [(), ('properties', 'a'), ('properties', 'a', 'items')]
    """
    yield path, schema
    inner: list[tuple[tuple[str, ...], Any]] = []
    for key in ("properties", "$defs", "definitions"):
        named = schema.get(key)
        if isinstance(named, dict):
            inner += [((key, name), part) for name, part in named.items()]
    inner.append((("items",), schema.get("items")))
    for key in lists:
        listed = schema.get(key)
        if isinstance(listed, list):
            inner += [((key, str(place)), part) for place, part in enumerate(listed)]
    for below, part in inner:
        if isinstance(part, dict):
            yield from schema_parts(part, lists=lists, path=(*path, *below))
