"""The subsets of JSON Schema that servers take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

_OPENAI_FORMATS: Final = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
)
_NUMBERS: Final = frozenset(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
)
_ITEMS: Final = frozenset(("minItems", "maxItems"))
_LENGTHS: Final = frozenset(("minLength", "maxLength"))

LONG_ENUM: Final = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaRules:
    """The subset of JSON Schema that a server takes.

    What it lacks is moved into descriptions, or refused where that loses too much.

    Args:
        title: its name in messages.
        strict: whether the server is asked to keep to the schema, where that is a choice.
        shown: whether the schema is written into the instructions as well: the server only
            keeps the answer to it, and shows it to no model.
        closed: objects must forbid further properties; so dicts with keys of their own cannot
            be said.
        open_dicts: ``additionalProperties`` may be a schema.
        untyped: schemas without a type, which allow anything, may be there.
        all_required: every property must be required; optional ones become nullable.
        any_of: unions may be there.
        type_lists: ``type`` may be a list.
        recursion: a schema may contain itself; ``optional``: in properties that may be left out.
        refs: ``keep`` references, ``inline`` what they point to.
        ref_siblings: a reference may have a description beside it.
        tuples: ``prefixItems`` is known.
        const: ``const`` is known; else it is an ``enum`` of one value.
        keywords: the bounds that are known.
        formats: the formats of strings that are known; None: all.
        lookaround: patterns may look ahead and back.
        anchors: patterns may contain ``^`` and ``$``.
        min_items_most: the highest ``minItems``; None: any.
        most_properties, most_depth, most_enum, most_optional, most_unions: how many properties,
            levels, values of enums, optional properties and unions there may be; None: any.
        most_characters: of all names of properties and values of enums together.
        most_long_enum: characters of the values of an enum of more than `LONG_ENUM` values.
    """

    title: str
    strict: bool = True
    shown: bool = False
    closed: bool = True
    open_dicts: bool = False
    untyped: bool = False
    all_required: bool = True
    any_of: bool = True
    type_lists: bool = True
    recursion: Literal["yes", "no", "optional"] = "yes"
    refs: Literal["keep", "inline"] = "keep"
    ref_siblings: bool = False
    tuples: bool = False
    const: bool = True
    keywords: frozenset[str] = frozenset()
    formats: frozenset[str] | None = frozenset()
    lookaround: bool = False
    anchors: bool = True
    min_items_most: int | None = None
    most_properties: int | None = None
    most_depth: int | None = None
    most_enum: int | None = None
    most_optional: int | None = None
    most_unions: int | None = None
    most_characters: int | None = None
    most_long_enum: int | None = None


RULES_OPENAI_STRICT: Final = SchemaRules(
    title="OpenAI's strict mode",
    # Lengths of strings: sources disagree, so they are described.
    keywords=_NUMBERS | _ITEMS | {"pattern"},
    formats=_OPENAI_FORMATS,
    most_properties=5000,
    most_depth=10,
    most_enum=1000,
    most_characters=120_000,
    most_long_enum=15_000,
)
"""OpenAI, Azure: ``strict: true``."""

RULES_LOOSE: Final = SchemaRules(
    title="JSON schema without strict mode",
    strict=False,
    closed=False,
    open_dicts=True,
    untyped=True,
    all_required=False,
    ref_siblings=True,
    tuples=True,
    keywords=_NUMBERS
    | _ITEMS
    | _LENGTHS
    | {"pattern", "default", "uniqueItems", "minProperties", "maxProperties"},
    formats=None,
    lookaround=True,
)
"""``strict: false``, and parameters of tools that are not strict: nearly all is taken."""

RULES_OPENAI_LOOSE: Final = replace(RULES_LOOSE, title="OpenAI's mode without strict")

RULES_ANTHROPIC: Final = SchemaRules(
    title="Anthropic's output format",
    all_required=False,
    type_lists=False,
    recursion="no",
    keywords=frozenset({"minItems"}),
    formats=_OPENAI_FORMATS | {"uri"},
    min_items_most=1,
    most_optional=24,
    most_unions=16,
)

RULES_GEMINI: Final = SchemaRules(
    title="Gemini's response schema",
    closed=False,
    open_dicts=True,
    all_required=False,
    recursion="optional",
    tuples=True,
    const=False,
    keywords=frozenset({"minimum", "maximum"}) | _ITEMS,
)

RULES_COMMON: Final = SchemaRules(
    title="the common subset of JSON Schema",
    recursion="no",
    refs="inline",
    type_lists=False,
    const=False,
)
"""What every server that keeps to a schema can take."""

RULES_GROQ: Final = replace(RULES_COMMON, title="Groq's strict mode")
RULES_COHERE: Final = replace(
    RULES_COMMON,
    title="Cohere's response format",
    any_of=False,
    closed=False,
    all_required=False,
    formats=frozenset({"date-time", "uuid", "date", "time"}),
)
RULES_LLAMA_CPP: Final = replace(
    RULES_COMMON,
    title="llama.cpp's grammar",
    recursion="yes",
    refs="keep",
    keywords=_ITEMS | _LENGTHS,
    open_dicts=True,
    closed=False,
    const=True,
    tuples=True,
)
"""The server turns a schema into a grammar; ``minimum`` there is for integers only."""
