"""Rewrites a JSON schema for the subset that a server takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from llmflow.typed.alternatives import (
    NULL,
    OF_TYPE,
    by_type,
    family,
    is_nullable,
    nullable,
    of_2020,
    only,
    without_null,
)
from llmflow.typed.bounds import SILENT, described
from llmflow.typed.merging import merged
from llmflow.typed.pointers import name_of, reached, references, resolved
from llmflow.typed.rules import LONG_ENUM, SchemaRules

_ANNOTATIONS: Final = ("description", "title")
_MOST_STEPS: Final = 64
_MOST_PARTS: Final = 20_000


class Inexpressible(ValueError):  # noqa: N818 - a name of its own
    """Part of a schema cannot be said in a server's subset.

    Args:
        path: where it is, such as ``reviews[].tags``; empty for the whole.
        why: what cannot be said.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}" if self.path else self.why


def fitted(schema: Mapping[str, Any], rules: SchemaRules) -> dict[str, Any]:
    r"""Return a schema rewritten for a server's subset.

    Bounds that it lacks go to the end of descriptions, in the form that Anthropic's SDK writes.
    Answers are checked against the whole schema anyway.

    >>> from llmflow.typed.rules import RULES_ANTHROPIC
    >>> size = {"type": "integer", "minimum": 3, "description": "Of shoes."}
    >>> fitted({"type": "object", "properties": {"size": size}}, RULES_ANTHROPIC)["properties"]
    {'size': {'type': 'integer', 'description': 'Of shoes.\n\n{minimum: 3}'}}

    Raises:
        Inexpressible: what the schema says cannot be said there.
    """
    try:
        return _Fitter(schema, rules).root()
    except _TooManyError:
        if rules.most_optional is None:
            raise
        return _Fitter(schema, rules, saves=True).root()


class _TooManyError(Inexpressible):
    """There is more of something than a server takes."""


class _Fitter:
    """Rewrites one schema.

    Args:
        schema: the schema.
        rules: what the server takes.
        saves: keep the counts of optional properties and unions low: optional properties cannot
            be null, and once there are as many as the server takes, they are required and can.
    """

    def __init__(
        self, schema: Mapping[str, Any], rules: SchemaRules, *, saves: bool = False
    ) -> None:
        self._schema, self._rules, self._saves = schema, rules, saves
        self._names: dict[str, str] = {}
        self._defs: dict[str, Any] = {}
        self._inside: tuple[str, ...] = ()
        """References whose schemas are being written."""
        self._reach: dict[str, set[str]] = {}
        self._properties = self._optional = self._unions = self._values = 0
        self._characters = self._parts = 0

    def root(self) -> dict[str, Any]:
        schema, rules = self._schema, self._rules
        for _ in range(_MOST_STEPS):
            reference = schema.get("$ref")
            if reference is None:
                break
            self._inside = (*self._inside, str(reference))
            rest = {name: part for name, part in schema.items() if name not in ("$ref", "$defs")}
            schema = merged(rest, self._target(reference, ""))
        result = self._fit(schema, "", 0)
        if result.get("type") != "object":
            raise Inexpressible("", "the root must be an object")
        if self._defs:
            result["$defs"] = self._defs
        for count, most, what in (
            (self._properties, rules.most_properties, "properties"),
            (self._optional, rules.most_optional, "optional properties"),
            (self._unions, rules.most_unions, "unions"),
            (self._values, rules.most_enum, "values of enums"),
            (self._characters, rules.most_characters, "characters of names and values"),
        ):
            if most is not None and count > most:
                raise _TooManyError("", f"{count:,} {what}, of at most {most:,}")
        return result

    def _fit(self, schema: Any, path: str, depth: int) -> dict[str, Any]:
        """Return a schema rewritten."""
        rules = self._rules
        if rules.most_depth is not None and depth > rules.most_depth:
            raise Inexpressible(path, f"more than {rules.most_depth} levels")
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Inexpressible(
                path, f"more than {_MOST_PARTS:,} parts, all references written out"
            )
        if schema is False:
            raise Inexpressible(path, "no value is allowed there")
        inside = self._inside
        node = self._flat({} if schema is True else schema, path)
        try:
            if "$ref" in node:
                return self._reference(node, path, depth)
            fit = self._choose(node)
            return fit(node, path, depth)
        finally:
            self._inside = inside

    def _choose(self, node: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
        if "enum" in node or "const" in node:
            return self._enum
        if "anyOf" in node or "oneOf" in node:
            return self._union
        kind = node.get("type")
        if isinstance(kind, list):
            return self._typed_union
        return self._typed

    # References and allOf

    def _target(self, reference: Any, path: str) -> Mapping[str, Any]:
        try:
            found = resolved(self._schema, reference)
        except LookupError:
            raise Inexpressible(path, f"$ref {reference!r} points to nothing in it") from None
        return found if isinstance(found, Mapping) else {}

    def _flat(self, schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        """Return a schema without allOf, and with the references that cannot be kept inlined."""
        for _ in range(_MOST_STEPS):
            if "allOf" in schema:
                schema = self._without_all_of(schema, path)
            if "$ref" not in schema:
                return schema
            reference = schema["$ref"]
            siblings = {
                name: part
                for name, part in schema.items()
                if name != "$ref" and (name not in SILENT or name == "description")
            }
            siblings |= {name: schema[name] for name in ("properties", "type") if name in schema}
            if self._keeps(reference, siblings, path):
                return {"$ref": reference, **siblings}
            self._inside = (*self._inside, reference)
            rest = {name: part for name, part in schema.items() if name != "$ref"}
            schema = merged(rest, self._target(reference, path))
        raise Inexpressible(path, "references in a circle")

    def _keeps(self, reference: str, siblings: Mapping[str, Any], path: str) -> bool:
        """Return True if a reference stays one."""
        rules, again = self._rules, reference in self._inside
        if again and rules.recursion == "no":
            raise Inexpressible(path, f"{name_of(reference)} contains itself")
        if rules.refs == "inline":
            return again
        return again or not siblings or (rules.ref_siblings and set(siblings) == {"description"})

    def _without_all_of(self, schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        result: Mapping[str, Any] = {name: part for name, part in schema.items() if name != "allOf"}
        parts = schema["allOf"]
        if len(parts) == 1 and isinstance(parts[0], Mapping) and not result.keys() - {"title"}:
            return dict(parts[0])
        for part in parts:
            if part is False:
                raise Inexpressible(path, "no value is allowed there")
            if part is True:
                continue
            inner = self._flat(part, path)
            if "$ref" in inner:
                if len(parts) == 1 or inner["$ref"] in self._inside:
                    result = merged({"$ref": inner["$ref"]}, result)
                    continue
                self._inside = (*self._inside, inner["$ref"])
                inner = self._flat(self._target(inner["$ref"], path), path)
            result = merged(result, inner)
        return result

    def _reference(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        reference = node["$ref"]
        name = self._names.get(reference)
        if name is None:
            name = self._names[reference] = self._new_name(reference)
            self._defs[name] = {}
            self._inside = (*self._inside, reference)
            self._defs[name] = self._fit(self._target(reference, path), path, depth)
        result: dict[str, Any] = {"$ref": f"#/$defs/{name}"}
        if self._rules.ref_siblings and "description" in node:
            result["description"] = node["description"]
        return result

    def _new_name(self, reference: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", name_of(reference)) or "root"
        name, number = base, 1
        while name in self._defs:
            number += 1
            name = f"{base}_{number}"
        self._characters += len(name)
        return name

    def _closes_circle(self, schema: Any) -> bool:
        """Return True if a schema leads back to one that it is in."""
        if not isinstance(schema, Mapping) or not self._inside:
            return False
        return any(
            reference in self._inside or not self._reached(reference).isdisjoint(self._inside)
            for reference in references(schema)
        )

    def _reached(self, reference: str) -> set[str]:
        if reference not in self._reach:
            self._reach[reference] = reached(self._schema, reference)
        return self._reach[reference]

    # Values and unions

    def _enum(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        rules = self._rules
        values = [node["const"]] if "const" in node else list(node["enum"])
        if "const" in node and "enum" in node:
            values = [value for value in values if value in node["enum"]]
        groups = by_type(values, node.get("type"))
        size = sum(len(str(value)) for value in values)
        self._values += len(values)
        self._characters += size
        most = rules.most_long_enum
        if most is not None and len(values) > LONG_ENUM and size > most:
            raise Inexpressible(path, f"an enum of {size:,} characters, of at most {most:,}")
        if "object" in groups and not rules.untyped:
            raise Inexpressible(path, "an enum of objects or lists")
        if not groups:
            raise Inexpressible(path, "no value is allowed there")
        if len(groups) > 1 and not rules.untyped:
            options = [
                NULL if kind == "null" else {"type": kind, "enum": group}
                for kind, group in groups.items()
            ]
            return self._union({**_annotations(node), "anyOf": options}, path, depth)
        result: dict[str, Any] = {}
        if len(groups) == 1 and "object" not in groups:
            result["type"] = next(iter(groups))
            if result["type"] == "null":
                return {**result, **_annotations(node)}
        if "const" in node and rules.const:
            result["const"] = node["const"]
        else:
            result["enum"] = [value for group in groups.values() for value in group]
        return self._described(result, node, OF_TYPE["string"] + OF_TYPE["number"])

    def _union(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        key = "anyOf" if "anyOf" in node else "oneOf"
        said = {
            name: part
            for name, part in node.items()
            if name != key and name not in _ANNOTATIONS and name != "default"
            if name not in SILENT or name in ("type", "properties", "required", "items", "oneOf")
        }
        options: list[dict[str, Any]] = []
        for option in node[key]:
            if option is False or (not said and option in options):
                continue
            part = {"allOf": [option, said]} if said else option
            try:
                options += self._options(self._fit(part, path, depth))
            except Inexpressible as error:
                if error.why != "no value is allowed there":
                    raise
        options = [part for place, part in enumerate(options) if part not in options[:place]]
        if not self._rules.any_of:
            options = [part for part in options if part != NULL] or options[:1]
            if len(options) > 1:
                raise Inexpressible(path, "one of several types")
        if not options:
            raise Inexpressible(path, "no value is allowed there")
        if len(options) == 1:
            return _annotated(options[0], node)
        self._unions += 1
        rest = {name: node[name] for name in ("default", *_ANNOTATIONS) if name in node}
        return self._described({"anyOf": options}, rest, ())

    def _options(self, option: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the alternatives of a fitted schema, itself if it is no plain union."""
        if option.keys() == {"anyOf"}:
            self._unions -= 1
            return list(option["anyOf"])
        return [option]

    def _typed_union(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        kinds = list(node["type"])
        if not kinds:
            raise Inexpressible(path, "no value is allowed there")
        plain = not any(kind in ("object", "array") for kind in kinds)
        if len(kinds) > 1 and self._rules.type_lists and self._rules.any_of and plain:
            words = tuple(each for kind in kinds for each in OF_TYPE.get(family(kind), ()))
            return self._described({"type": kinds}, node, words)
        rest = {name: part for name, part in node.items() if name not in ("type", *_ANNOTATIONS)}
        options = [NULL if kind == "null" else {**only(rest, kind), "type": kind} for kind in kinds]
        result = self._union({"anyOf": options}, path, depth)
        return _annotated(result, node)

    def _described(
        self,
        result: dict[str, Any],
        node: Mapping[str, Any],
        words: Collection[str],
        told: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return described(result, node, words, self._rules, told or {})

    # Single types

    def _typed(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        kind = node.get("type") or next(
            (kind for kind, words in OF_TYPE.items() if any(each in node for each in words)), None
        )
        if kind is None:
            if not self._rules.untyped:
                raise Inexpressible(path, "any value is allowed there")
            return self._described({}, node, ())
        if kind == "object":
            return self._object(node, path, depth)
        if kind == "array":
            return self._array(node, path, depth)
        return self._described({"type": kind}, node, OF_TYPE.get(family(kind), ()))

    def _object(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        rules = self._rules
        given, more = node.get("properties"), node.get("additionalProperties", True)
        if not isinstance(given, Mapping):
            if more is not False and not rules.open_dicts:
                raise Inexpressible(path, "an object with names of its own")
            given = {}
        wanted = [name for name in node.get("required", ()) if isinstance(name, str)]
        given = {**given, **{name: more for name in wanted if name not in given}}
        properties: dict[str, Any] = {}
        required: list[str] = []
        for name, part in given.items():
            if part is not False:
                inner = self._fit(part, f"{path}.{name}" if path else name, depth + 1)
                needed = name in wanted and not self._may_be_left_out(part)
                if not needed:
                    needed, inner = self._optional_property(inner)
                if needed:
                    required.append(name)
                properties[name] = inner
                self._optional += not needed
        self._properties += len(properties)
        self._characters += sum(map(len, properties))
        result: dict[str, Any] = {"type": "object"}
        if properties or "properties" in node or rules.closed:
            result["properties"] = properties
        if required or rules.all_required:
            result["required"] = required
        if rules.closed:
            result["additionalProperties"] = False
        elif rules.open_dicts and "additionalProperties" in node:
            result["additionalProperties"] = self._more(more, path, depth)
        return self._described(result, node, ("minProperties", "maxProperties"))

    def _optional_property(self, schema: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Return whether an optional property is required for the server, and its schema."""
        rules = self._rules
        if rules.all_required:
            return True, nullable(schema)
        if not self._saves or rules.most_optional is None:
            return False, schema
        has_union = "anyOf" in schema
        if self._optional < rules.most_optional:
            schema = without_null(schema)
            self._unions -= has_union and "anyOf" not in schema
            return False, schema
        self._unions += not has_union
        return True, nullable(schema)

    def _more(self, more: Any, path: str, depth: int) -> Any:
        if isinstance(more, bool) or (not more and not self._rules.untyped):
            return more is not False
        return self._fit(more, f"{path}.*" if path else "*", depth + 1)

    def _may_be_left_out(self, schema: Any) -> bool:
        """Return True if a required property has to be optional for the server."""
        rules = self._rules
        if rules.recursion == "optional" and self._closes_circle(schema):
            return True
        return not rules.any_of and is_nullable(schema)

    def _array(self, node: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        rules, inside = self._rules, f"{path}[]"
        node = of_2020(node)
        result: dict[str, Any] = {"type": "array"}
        told: dict[str, Any] = {}
        first, items = node.get("prefixItems"), node.get("items")
        words = ["minItems", "maxItems", "uniqueItems"]
        if isinstance(first, list) and first:
            parts = [self._fit(part, f"{path}[{n}]", depth + 1) for n, part in enumerate(first)]
            if rules.tuples:
                result["prefixItems"] = parts
                if items is not None:
                    result["items"] = bool(items) and self._fit(items, inside, depth + 1)
            else:
                rest = [] if items in (None, False) else [items]
                options = {"anyOf": [*first, *rest]}
                result["items"] = self._fit(options, inside, depth + 1)
                told["prefixItems"] = parts
        elif items is not None and items is not True:
            result["items"] = self._fit(items, inside, depth + 1)
        elif not rules.untyped:
            raise Inexpressible(inside, "any value is allowed there")
        return self._described(result, node, words, told)


def _annotations(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: node[name] for name in _ANNOTATIONS if name in node}


def _annotated(result: dict[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Put a union's description before that of its only alternative."""
    told = node.get("description")
    if not told or "$ref" in result:
        return result
    own = str(result.get("description", ""))
    if own.startswith("{"):
        told = f"{told}\n\n{own}"
    return {**result, "description": told}
