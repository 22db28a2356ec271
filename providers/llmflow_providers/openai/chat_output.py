"""Schemas in OpenAI's dialect: the methods of its servers and models.

Sources: OpenAI's guide on structured outputs, the pages of the other providers on theirs
(autumn 2026), and what servers said to those who sent them something else. Where a row is wrong
about a model, the server's refusal is recognised and the next method is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from llmflow.typed.methods import ANSWER_TOOL, Chosen, OutputMethods
from llmflow.typed.rules import (
    RULES_COMMON,
    RULES_GEMINI,
    RULES_GROQ,
    RULES_LOOSE,
    RULES_OPENAI_LOOSE,
    RULES_OPENAI_STRICT,
)
from llmflow_providers.base import mapping
from llmflow_providers.openai.dialects import Dialect
from llmflow_providers.typed_output import (
    TOOL_DESCRIPTION,
    Sent,
    TypedOutput,
    Way,
    refuse_field,
    written,
)

STRICT: Final[Way] = ("json_schema", RULES_OPENAI_STRICT)
LOOSE: Final[Way] = ("json_schema", RULES_OPENAI_LOOSE)
COMMON: Final[Way] = ("json_schema", RULES_COMMON)
TOOL: Final[Way] = ("tool", RULES_LOOSE)
JSON_MODE: Final[Way] = ("json_object", None)
PROMPT: Final[Way] = ("prompt", None)
# Servers that only mask tokens: their models do not see the schema. They read it in the prompt.
MASKED: Final[Way] = ("json_schema", replace(RULES_OPENAI_STRICT, shown=True))
MASKED_LOOSE: Final[Way] = ("json_schema", replace(RULES_OPENAI_LOOSE, shown=True))
# Best effort, and no bound of arrays: "minItems is not supported".
_GROQ_LOOSE: Final[Way] = (
    "json_schema",
    replace(RULES_GROQ, title="Groq's mode without strict", strict=False, all_required=False),
)

WAYS: Final[Mapping[str, tuple[Way, ...]]] = {
    "openai": (STRICT, LOOSE, TOOL, PROMPT),
    "azure": (STRICT, LOOSE, TOOL, PROMPT),
    "groq": (_GROQ_LOOSE, TOOL, JSON_MODE, PROMPT),
    "cerebras": (COMMON, LOOSE, TOOL, JSON_MODE, PROMPT),
    "mistral": (STRICT, LOOSE, TOOL, JSON_MODE, PROMPT),
    "fireworks_ai": (MASKED, MASKED_LOOSE, TOOL, JSON_MODE, PROMPT),
    "gemini": (("json_schema", RULES_GEMINI), TOOL, PROMPT),
    # It thinks unless told otherwise, and then no tool can be forced.
    "deepseek": (JSON_MODE, PROMPT),
    "compatible": (MASKED, MASKED_LOOSE, TOOL, PROMPT),
}
"""The methods of each dialect, the best first."""

_BY_HOST: Final[Mapping[str, tuple[Way, ...]]] = {
    "api.x.ai": (STRICT, LOOSE, TOOL, PROMPT),
    "openrouter.ai": (COMMON, LOOSE, TOOL, PROMPT),
}
"""Those of servers that have no row among the dialects."""

_BY_MODEL: Final[tuple[tuple[frozenset[str], re.Pattern[str], tuple[Way, ...]], ...]] = (
    # Groq keeps to a schema with these only.
    (
        frozenset({"groq"}),
        re.compile(r"gpt-oss"),
        (("json_schema", RULES_GROQ), _GROQ_LOOSE, TOOL, JSON_MODE, PROMPT),
    ),
    # OpenAI's models from before August 2024, and those that hear and speak; also behind a gateway
    # and as deployments.
    (
        frozenset({"openai", "azure", "compatible"}),
        re.compile(r"(?:ft:)?gpt-(?:3\.?5|4(?:$|[-:])|4o-2024-05-13|(?:4o-)?(?:mini-)?audio)"),
        (TOOL, PROMPT),
    ),
    (
        frozenset({"openai", "azure", "compatible"}),
        re.compile(r"chatgpt-4o|o1-(?:mini|preview)"),
        (PROMPT,),
    ),
)

_FORCED: Final = {"type": "function", "function": {"name": ANSWER_TOOL}}
_ROUTER: Final = "openrouter.ai"
_TAKES_ALL: Final = {"require_parameters": True}


def ways_of(dialect: str, model: str, host: str = "") -> tuple[Way, ...]:
    """Return the methods for a server's model, the best first.

    >>> [method for method, _ in ways_of("openai", "gpt-3.5-turbo")]
    ['tool', 'prompt']
    """
    name = model.rpartition("/")[2]
    for dialects, pattern, ways in _BY_MODEL:
        if dialect in dialects and pattern.match(name):
            return ways
    if dialect == "compatible" and host in _BY_HOST:
        return _BY_HOST[host]
    return WAYS.get(dialect, WAYS["compatible"])


def output_methods(ways: tuple[Way, ...]) -> OutputMethods:
    """Return methods, with all others behind them to be named."""
    named = {method for method, _ in ways}
    others = (each for each in (LOOSE, TOOL, JSON_MODE, PROMPT) if each[0] not in named)
    return OutputMethods(*ways, *others)


class ChatFields(TypedOutput):
    """Fields of a chat completion for a schema. Arguments as `TypedOutput`."""

    def write(self, value: dict[str, Any]) -> Any:
        """Return a field's value as it is sent."""
        return written(value)

    def written_fields(self, chosen: Chosen, name: str) -> Mapping[str, Any]:
        """Return the response format, or the tool that is to be called."""
        if chosen.method == "json_schema":
            named = {"name": name, "schema": chosen.schema, "strict": chosen.strict}
            form = {"type": "json_schema", "json_schema": named}
            return {"response_format": self.write(form)}
        if chosen.method == "json_object":
            return {"response_format": {"type": "json_object"}}
        if chosen.method == "tool":
            function = {
                "name": ANSWER_TOOL,
                "description": TOOL_DESCRIPTION,
                "parameters": chosen.schema,
            }
            return {
                "tools": [self.write({"type": "function", "function": function})],
                "tool_choice": _FORCED,
            }
        return {}

    def beside(self, options: Mapping[str, Any], sent: Sent) -> Sent:
        """Return what is sent beside options. As `TypedOutput.beside`."""
        if options.get("response_format") is not None:
            raise refuse_field("response_format")
        return super().beside(options, sent)


class ChatOutput(ChatFields):
    """Schemas in chat completions of one server.

    Args:
        dialect: whose rules the server follows.
        model: the model's name there.
        base_url: where it is.
        who: provider and model, as messages name them.
    """

    def __init__(self, dialect: Dialect, model: str, base_url: str, *, who: str) -> None:
        host = urlsplit(base_url).hostname or ""
        super().__init__(output_methods(ways_of(dialect.name, model, host)), who=who)
        self._is_router = host == _ROUTER

    def written_fields(self, chosen: Chosen, name: str) -> Mapping[str, Any]:
        """Return the fields of the body. As `TypedOutput.written_fields`."""
        fields = super().written_fields(chosen, name)
        # Else a router may choose a server that ignores them.
        return {**fields, "provider": _TAKES_ALL} if self._is_router and fields else fields

    def beside(self, options: Mapping[str, Any], sent: Sent) -> Sent:
        """Return what is sent beside options. As `TypedOutput.beside`."""
        sent = super().beside(options, sent)
        if "provider" not in sent.fields or "provider" not in options:
            return sent
        routes = {**_TAKES_ALL, **mapping(options["provider"])}
        return sent._replace(fields={**sent.fields, "provider": routes})
