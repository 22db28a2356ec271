"""Tools that a request forces the simulated model to call, and what it calls them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmflow.simulator.schema_value import fill_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that must be called.

    Args:
        name: its name.
        schema: the JSON schema of its input; None for a tool that takes free text.

    """

    name: str
    schema: Mapping[str, Any] | None

    def input(self, text: str) -> str:
        """Return the plainest input that the schema allows, with `text` where one may be."""
        if self.schema is None:
            return text
        value = fill_schema(self.schema, text)
        return orjson.dumps(value if isinstance(value, dict) else {}).decode()


def forced_chat_tool(body: Mapping[str, Any]) -> Tool | None:
    """Return the tool that a checked chat request forces; the first of several.

    >>> look = {"type": "function", "function": {"name": "look"}}
    >>> forced_chat_tool({"tools": [look], "tool_choice": "required"})
    Tool(name='look', schema={})
    """
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if isinstance(choice, str):
        return _chat_tool(tools[0]) if choice == "required" else None
    if not choice:
        return None
    if choice["type"] == "allowed_tools":
        allowed = choice["allowed_tools"]
        if allowed["mode"] != "required":
            return None
        choice = allowed["tools"][0]
    name = chat_tool_name(choice)
    return next((_chat_tool(tool) for tool in tools if chat_tool_name(tool) == name), None)


def chat_tool_name(tool: Mapping[str, Any]) -> str | None:
    """Return the name in a tool, or in a reference to one."""
    inner = tool.get(str(tool.get("type")))
    return inner.get("name") if isinstance(inner, Mapping) else None


def _chat_tool(tool: Mapping[str, Any]) -> Tool:
    inner = tool[tool["type"]]
    if tool["type"] == "custom":
        return Tool(name=inner["name"], schema=None)
    schema = inner.get("parameters")
    return Tool(name=inner["name"], schema=schema if isinstance(schema, Mapping) else {})


def forced_message_tool(body: Mapping[str, Any]) -> Tool | None:
    """Return the tool that a checked request for a message forces; the first of several."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if not choice or choice["type"] not in ("any", "tool"):
        return None
    name = choice["name"] if choice["type"] == "tool" else tools[0].get("name")
    tool = next(tool for tool in tools if tool.get("name") == name)
    schema = tool.get("input_schema")
    return Tool(name=str(name), schema=schema if isinstance(schema, Mapping) else {})
