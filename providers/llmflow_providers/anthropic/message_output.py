"""Schemas in the Messages API: its output format, or a forced tool.

Sources: Anthropic's guide on structured outputs and Google's page on them (2026: Claude 4.5 and
later), its Python SDK 2.14, and what the API said to requests that it refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from llmflow.typed.methods import ANSWER_TOOL, Chosen, OutputMethods
from llmflow.typed.rules import RULES_ANTHROPIC, RULES_LOOSE
from llmflow_providers.base import mapping
from llmflow_providers.typed_output import (
    TOOL_DESCRIPTION,
    Sent,
    TypedOutput,
    Way,
    arguments_text,
    refuse_field,
    written,
)

# What came before 4.5. Any other Claude is as new, or newer.
_OLD_CLAUDE: Final = re.compile(
    r"claude-(?:instant|v?[123](?:[.:-]|$)"
    r"|(?:opus|sonnet|haiku)-(?:3(?:[.-]\d)?|4(?:[.-][01])?)(?:[-@]\d{8}|-latest|$))"
)
_FORMAT: Final[Way] = ("json_schema", RULES_ANTHROPIC)
_TOOL: Final[Way] = ("tool", RULES_LOOSE)
_PROMPT: Final[Way] = ("prompt", None)
_CALL_IT: Final = f"Give your answer by calling the tool {ANSWER_TOOL}, once and as a whole."
_FORCED: Final = {"type": "tool", "name": ANSWER_TOOL, "disable_parallel_tool_use": True}
_FREE: Final = {"type": "auto", "disable_parallel_tool_use": True}
_NO_THINKING: Final = (None, "disabled")
# Later ones think unless told otherwise, or always: then no tool can be forced. Some refuse it in
# any case (Opus 5.5, Sonnet 5.5, Fable 5.1, Mythos 5.1).
_CLAUDE_4_5_ON: Final = re.compile(r"claude-(?:opus|sonnet|haiku)-4[.-][5-9]")


def takes_format(model: str, *, is_official: bool) -> bool:
    """Return whether a model has the output format.

    >>> takes_format("claude-sonnet-4-5", is_official=True)
    True
    >>> takes_format("claude-opus-4-1-20250805", is_official=True)
    False

    Args:
        model: its name, perhaps with a vendor or region before it.
        is_official: whether the server is Anthropic's own: elsewhere only models of that name
            are Claude.
    """
    if _OLD_CLAUDE.search(model):
        return False
    return is_official or "claude" in model


class MessageOutput(TypedOutput):
    """Schemas in messages.

    Args:
        model: the model's name.
        is_official: whether the server is Anthropic's own.
        who: provider and model, as messages name them.
    """

    def __init__(self, model: str, *, is_official: bool, who: str) -> None:
        has_format = takes_format(model, is_official=is_official)
        self._can_force = not has_format or _CLAUDE_4_5_ON.search(model) is not None
        # Where it has none, it can still be asked for by name.
        ways = (_FORMAT, _TOOL, _PROMPT) if has_format else (_TOOL, _PROMPT, _FORMAT)
        super().__init__(OutputMethods(*ways), who=who)

    def written_fields(self, chosen: Chosen, name: str) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the output format, or the tool that is to be called."""
        if chosen.method == "json_schema":
            form = written({"type": "json_schema", "schema": chosen.schema})
            return {"output_config": {"format": form}}
        if chosen.method == "tool":
            tool = {
                "name": ANSWER_TOOL,
                "description": TOOL_DESCRIPTION,
                "input_schema": chosen.schema,
            }
            choice = _FORCED if self._can_force else _FREE
            return {"tools": [written(tool)], "tool_choice": choice}
        return {}

    def instructions(self, chosen: Chosen) -> str:
        """Return what is said. As `TypedOutput.instructions`."""
        is_asked = chosen.method == "tool" and not self._can_force
        return _CALL_IT if is_asked else super().instructions(chosen)

    def beside(self, options: Mapping[str, Any], sent: Sent) -> Sent:
        """Return what is sent beside options. As `TypedOutput.beside`.

        A model that thinks cannot be forced to call a tool: it is asked to.
        """
        sent = super().beside(options, sent)
        config = mapping(options.get("output_config"))
        if config.get("format") is not None:
            raise refuse_field("output_config.format")
        if options.get("output_format") is not None:
            raise refuse_field("output_format")
        method = sent.chosen.method
        if method == "json_schema" and config:
            return sent._replace(
                fields={"output_config": {**config, **sent.fields["output_config"]}}
            )
        thinking = mapping(options.get("thinking")).get("type")
        if method == "tool" and thinking not in _NO_THINKING:
            fields = {**sent.fields, "tool_choice": _FREE}
            return sent._replace(fields=fields, instructions=_CALL_IT)
        return sent


def answer_in_blocks(blocks: Any) -> str | None:
    """Return the answer among a message's tool calls, or None.

    >>> answer_in_blocks([{"type": "tool_use", "name": "return_answer", "input": {"a": 1}}])
    '{"a":1}'
    """
    for block in blocks:
        if block.get("type") == "tool_use" and block.get("name") == ANSWER_TOOL:
            return arguments_text(block.get("input"))
    return None
