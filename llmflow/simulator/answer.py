"""What the simulated model says, whatever the dialect."""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from llmflow.simulator.dialect import Call
from llmflow.simulator.schema_value import fill_schema
from llmflow.simulator.summary import answer_text, count_tokens, cut_to_tokens
from llmflow.simulator.tools import Tool

_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer, or a tool's input, and whether ``max_tokens`` has cut it."""

    text: str
    tokens: int
    cut: bool = False
    tool: Tool | None = None

    def pieces(self) -> list[str]:
        """Return the text as a stream brings it: word by word."""
        return _PIECE.findall(self.text)


def answer(call: Call, *, style: str) -> Answer:
    """Let the simulated model answer."""
    text = answer_text(call.prompt, style=style, max_tokens=call.max_tokens)
    if call.tool is not None:
        text = call.tool.input(text)
    elif call.form == "object":
        text = orjson.dumps({"answer": text}).decode()
    elif call.form is not None:
        text = orjson.dumps(fill_schema(call.form, text)).decode()
    tokens = count_tokens(text)
    if call.max_tokens is None or tokens <= call.max_tokens:
        return Answer(text=text, tokens=tokens, tool=call.tool)
    text = cut_to_tokens(text, call.max_tokens)
    return Answer(text=text, tokens=count_tokens(text), cut=True, tool=call.tool)
