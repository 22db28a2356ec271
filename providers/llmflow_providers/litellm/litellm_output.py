"""Schemas through litellm, which translates OpenAI's fields for each vendor."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from llmflow.typed.methods import OutputMethods
from llmflow.typed.rules import RULES_ANTHROPIC, RULES_COHERE, RULES_COMMON, RULES_GEMINI
from llmflow.types import Request
from llmflow_providers.openai.chat_output import (
    PROMPT,
    TOOL,
    WAYS,
    ChatFields,
    output_methods,
    ways_of,
)
from llmflow_providers.typed_output import Sent, Way, arguments_text, is_answer

_RULES: Final = {
    "anthropic": RULES_ANTHROPIC,
    "cohere": RULES_COHERE,
    "cohere_chat": RULES_COHERE,
    "vertex_ai": RULES_GEMINI,
    "vertex_ai_beta": RULES_GEMINI,
}
_OTHERS: Final = replace(RULES_COMMON, shown=True)
# What a method needs of the fields that litellm knows for a model.
_NEEDED: Final = {
    "json_schema": "response_format",
    "json_object": "response_format",
    "tool": "tool_choice",
}


def litellm_ways(model: str) -> tuple[Way, ...]:
    """Return the methods for a model of litellm, the best first.

    >>> [method for method, _ in litellm_ways("cohere_chat/command-r")]
    ['json_schema', 'tool', 'prompt']
    """
    vendor, slash, name = model.partition("/")
    if not slash:
        vendor, name = "openai", model
    if "claude" in name:
        vendor = "anthropic"
    if vendor in WAYS and vendor != "compatible":
        return ways_of(vendor, name)
    return (("json_schema", _RULES.get(vendor, _OTHERS)), TOOL, PROMPT)


class LiteLLMOutput(ChatFields):
    """Schemas in calls of litellm.

    Args:
        model: the model's name at litellm.
        who: provider and model, as messages name them.
    """

    def __init__(self, model: str, *, who: str) -> None:
        self._ways = litellm_ways(model)
        self._first = output_methods(self._ways)
        super().__init__(self._first, who=who)

    def write(self, value: dict[str, Any]) -> Any:
        """Return a value as it is: litellm takes no JSON."""
        return value

    def sent(self, request: Request) -> Sent | None:
        """Return what is sent, with fields that litellm may change."""
        found = super().sent(request)
        return found and found._replace(fields=copy.deepcopy(dict(found.fields)))

    def keep(self, known: Collection[str]) -> None:
        """Leave out methods whose fields litellm does not know for the model.

        Methods that somebody else has set stay as they are.
        """
        if self.methods is not self._first:
            return
        kept = tuple(way for way in self._ways if _NEEDED.get(way[0], "") in ("", *known))
        if kept and kept != self._ways:
            self._first = self.methods = OutputMethods(*kept)


def answer_of(calls: Any) -> str | None:
    """Return the answer among litellm's tool calls, or None."""
    for call in calls if isinstance(calls, list) else ():
        function: Any = getattr(call, "function", None)
        if is_answer(getattr(function, "name", None)):
            return arguments_text(getattr(function, "arguments", None))
    return None
