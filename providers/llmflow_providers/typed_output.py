"""Sends the schemas of typed answers, and finds those answers.

A schema goes to a server by one of four methods (`llmflow.typed.methods`). What is sent for it is
written as JSON once, and is the same bytes in every request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from llmflow.errors import ConfigurationError
from llmflow.typed.methods import ANSWER_TOOL, Chosen, OutputMethod, OutputMethods
from llmflow.typed.rules import SchemaRules
from llmflow.types import Request
from llmflow_providers import words
from llmflow_providers.base import dump_body, mapping

Way: TypeAlias = tuple[OutputMethod, SchemaRules | None]
"""A method, with the rules that a schema must keep for it."""

TOOL_DESCRIPTION: Final = "Gives the answer. Call it once, with the whole answer."

TOOL_OPTIONS: Final = ("tools", "tool_choice", "functions", "function_call")
_ENDED_WITH_TOOL: Final = words("tool_calls tool_use function_call")
_MOST_KEPT: Final = 64


class Sent(NamedTuple):
    """All that is sent for a schema.

    Args:
        chosen: how the schema is sent.
        fields: fields of the body, which come before options.
        instructions: what the system prompt ends with, or nothing.
    """

    chosen: Chosen
    fields: Mapping[str, Any]
    instructions: str = ""


class TypedOutput(ABC):
    """The way of one provider to ask for a schema.

    A subclass adds `written_fields`.

    Args:
        methods: the methods that the server knows, the best first.
        who: provider and model, as messages name them.
    """

    def __init__(self, methods: OutputMethods, *, who: str) -> None:
        self.methods = methods
        self.who = who
        self._kept: dict[int, Sent] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": {}}  # written JSON cannot be pickled

    @abstractmethod
    def written_fields(self, chosen: Chosen, name: str) -> Mapping[str, Any]:
        """Return the fields of the body for a schema of this name."""

    def instructions(self, chosen: Chosen) -> str:
        """Return the words for the system prompt that a choice needs."""
        return chosen.instructions

    def sent(self, request: Request) -> Sent | None:
        """Return the parts sent for a request's schema, or None.

        Raises:
            ConfigurationError: the server cannot be told such a schema, or the options speak of
                the answer's form themselves.
        """
        output = request.output
        if output is None:
            return None
        chosen = self.methods.chosen(output)
        found = self._kept.get(id(chosen))
        if found is None or found.chosen is not chosen:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            fields = self.written_fields(chosen, output.name)
            found = self._kept[id(chosen)] = Sent(chosen, fields, self.instructions(chosen))
        return self.beside(request.options, found) if request.options else found

    def tokens(self, request: Request) -> int:
        """Return an estimate of the tokens that a request's schema adds."""
        output = request.output
        return 0 if output is None else self.methods.chosen(output).tokens

    def beside(self, options: Mapping[str, Any], sent: Sent) -> Sent:
        """Return what is sent for a schema beside options.

        Raises:
            ConfigurationError: they speak of the answer's form themselves.
        """
        if sent.chosen.method != "tool":
            return sent
        given = [name for name in TOOL_OPTIONS if options.get(name) is not None]
        if given:
            raise ConfigurationError(
                f"the schema of the answer goes to {self.who} as a tool that it must call, and so "
                f"{' and '.join(given)} in options cannot stand beside an output type: leave "
                f"{'it' if len(given) == 1 else 'them'} out, or set output_method='prompt'"
            )
        return sent


def refuse_field(field: str) -> ConfigurationError:
    """Return the error for a field that an output type sets."""
    return ConfigurationError(
        f"{field} in options cannot stand beside an output type, which sets it: "
        "leave one of the two out"
    )


def written(value: dict[str, Any]) -> Any:
    """Return JSON data as it is sent, written once for all requests."""
    return orjson.Fragment(dump_body(value))


def answer_in(calls: Any) -> str | None:
    """Return the answer among a completion's tool calls, or None.

    >>> answer_in([{"function": {"name": "return_answer", "arguments": '{"a": 1}'}}])
    '{"a": 1}'
    """
    for call in calls if isinstance(calls, list) else ():
        function = mapping(mapping(call).get("function"))
        if is_answer(function.get("name")):
            return arguments_text(function.get("arguments"))
    return None


def is_answer(name: object) -> bool:
    """Return whether a tool's name is the one for answers."""
    return name == ANSWER_TOOL


def arguments_text(arguments: Any) -> str:
    """Return a tool call's arguments as text, however they came.

    >>> arguments_text({"a": 1}), arguments_text(None)
    ('{"a":1}', '')
    """
    if isinstance(arguments, str):
        return arguments
    return dump_body(arguments).decode() if arguments is not None else ""


def ending_of_answer(finish_reason: str | None) -> str | None:
    """Return the ending of an answer given as a tool call.

    >>> ending_of_answer("tool_calls"), ending_of_answer("length")
    ('stop', 'length')
    """
    return "stop" if finish_reason in _ENDED_WITH_TOOL else finish_reason
