"""Chooses how a provider is asked for JSON of a schema."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

from llmflow.errors import ConfigurationError
from llmflow.parts import OutputSchema
from llmflow.tokens import estimate_tokens
from llmflow.typed.instructions import instructions_for, schema_text
from llmflow.typed.rules import SchemaRules
from llmflow.typed.subset import Inexpressible, fitted

OutputMethod = Literal["json_schema", "json_object", "tool", "prompt"]
"""How JSON is asked for: the server's schema mode, its JSON mode, a forced tool, in words."""

ANSWER_TOOL: Final = "return_answer"
"""The name of the tool that a model must call with its answer."""

_MOST_KEPT: Final = 512
_IN_WORDS: Final = ("json_object", "prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The way in which one output schema is sent.

    Args:
        method: the method.
        schema: the schema as it is sent: rewritten for what the server takes.
        strict: whether the server is asked to keep to it.
        tokens: an estimate of the input tokens that it adds.
        instructions: the text that asks for it, for ``json_object``, ``prompt``, and servers
            that show a model no schema; else empty.
    """

    method: OutputMethod
    schema: Mapping[str, Any]
    strict: bool
    tokens: int
    instructions: str = ""


class OutputMethods:
    """The methods to ask a provider for JSON, the best first.

    A schema goes by the first one that can express it. What was worked out for an
    `OutputSchema` is kept, by its identity.

    >>> from llmflow.typed.rules import RULES_OPENAI_STRICT
    >>> methods = OutputMethods(("json_schema", RULES_OPENAI_STRICT), ("prompt", None))
    >>> schema = {"type": "object", "properties": {"score": {"type": "integer"}}}
    >>> methods.chosen(OutputSchema(schema=schema)).method
    'json_schema'

    Args:
        methods: names, each with the rules that its schema must keep; None: any schema. One name
            may be there twice, first strict and then not.
        forced: the only method to use; None: the first that can express a schema.

    Raises:
        ConfigurationError: the forced method is not among them.
    """

    def __init__(
        self, *methods: tuple[OutputMethod, SchemaRules | None], forced: OutputMethod | None = None
    ) -> None:
        self.methods = methods
        self.forced = forced
        names = list(dict.fromkeys(name for name, _ in methods))
        if forced is not None and forced not in names:
            if forced not in get_args(OutputMethod):
                known = ", ".join(get_args(OutputMethod))
                raise ConfigurationError(f"output_method must be one of {known}; got {forced!r}")
            raise ConfigurationError(
                f"output_method {forced!r} is not known for this model; use {' or '.join(names)}"
            )
        self._chosen: dict[int, tuple[OutputSchema, Chosen, int]] = {}
        self._refused: dict[int, tuple[OutputSchema, dict[int, Chosen | None]]] = {}
        self._answered: dict[int, Chosen] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"OutputMethods({', '.join(name for name, _ in self.methods)})"

    def __reduce__(self) -> Any:
        return partial(type(self), *self.methods, forced=self.forced), ()  # nothing worked out

    def forced_to(self, method: OutputMethod | None) -> OutputMethods:
        """Return the same with one method only; None: with all.

        Raises:
            ConfigurationError: it is not among them.
        """
        return OutputMethods(*self.methods, forced=method)

    def chosen(self, output: OutputSchema) -> Chosen:
        """Return how a schema is sent.

        Raises:
            ConfigurationError: no method can express it.
        """
        found = self._chosen.get(id(output))
        if found is not None and found[0] is output:
            return found[1]
        with self._lock:
            return self._keep_chosen(output, self._refused_of(output))

    def refuse(self, output: OutputSchema, sent: Chosen | OutputMethod) -> bool:
        """Use the next method for a schema; False if none is left.

        The server refused this one. Calls in flight may all tell the same refusal. Where this one
        has given an answer, the error is about the prompt, and the method stays.

        Args:
            output: the schema.
            sent: what was chosen when the refused request was sent; or a method, which is then
                used no more.
        """
        with self._lock:
            refused = dict(self._refused_of(output))
            found = self._chosen.get(id(output))
            if isinstance(sent, str):
                places = (place for place, (name, _) in enumerate(self.methods) if name == sent)
                refused = {**dict.fromkeys(places), **refused}
            elif found is not None and found[0] is output:
                if found[1] is not sent:
                    return True  # another call's refusal came first
                if self._answered.get(id(sent)) is sent:
                    return False
                refused[found[2]] = sent
            try:
                self._keep_chosen(output, refused)
            except ConfigurationError:
                return False
            _keep(self._refused, id(output), (output, refused))
            return True

    def answered(self, output: OutputSchema, sent: Chosen) -> None:
        """Keep using a method that has given an answer.

        It is refused no more, and is used again if it was: the error of a prompt may have come
        before the first answer.

        Args:
            output: the schema.
            sent: what was chosen when the answered request was sent.
        """
        if self._answered.get(id(sent)) is sent:
            return
        with self._lock:
            _keep(self._answered, id(sent), sent)
            refused = dict(self._refused_of(output))
            for place, chosen in tuple(refused.items()):
                if chosen is sent:
                    del refused[place]
                    _keep(self._refused, id(output), (output, refused))
                    _keep(self._chosen, id(output), (output, sent, place))

    def _refused_of(self, output: OutputSchema) -> Mapping[int, Chosen | None]:
        kept = self._refused.get(id(output))
        return kept[1] if kept is not None and kept[0] is output else {}

    def _keep_chosen(self, output: OutputSchema, refused: Collection[int]) -> Chosen:
        problems = []
        for place, (method, rules) in enumerate(self.methods):
            if place in refused or (self.forced is not None and method != self.forced):
                continue
            try:
                chosen = _sent(output, method, rules)
            except Inexpressible as error:
                problems.append((rules, error))
            else:
                _keep(self._chosen, id(output), (output, chosen, place))
                return chosen
        raise ConfigurationError(self._unsaid(output, problems))

    def _unsaid(
        self, output: OutputSchema, problems: list[tuple[SchemaRules | None, Inexpressible]]
    ) -> str:
        if not problems:
            return f"the server refused every method to ask for the output type {output.name}"
        rules, error = problems[0]
        where = f" at {error.path}" if error.path else ""
        remedy = "change the type"
        if self.forced is not None:
            remedy += ", or leave output_method out"
        title = rules.title if rules is not None else "this server"
        return f"output type {output.name}: {title} cannot express it{where}: {error.why}; {remedy}"


def _sent(output: OutputSchema, method: OutputMethod, rules: SchemaRules | None) -> Chosen:
    schema = dict(output.schema) if rules is None else fitted(output.schema, rules)
    strict = output.strict and rules is not None and rules.strict and method not in _IN_WORDS
    told = method in _IN_WORDS or (rules is not None and rules.shown)
    instructions = instructions_for(schema) if told else ""
    text = instructions or schema_text(schema) + output.name
    extra = 40 if method == "tool" else 5
    return Chosen(
        method=method,
        schema=schema,
        strict=strict,
        tokens=estimate_tokens(text) + extra,
        instructions=instructions,
    )


def _keep(kept: dict[int, Any], key: int, value: Any) -> None:
    if key not in kept and len(kept) >= _MOST_KEPT:
        kept.pop(next(iter(kept)))
    kept[key] = value
