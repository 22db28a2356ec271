"""Schemas as they are sent are taken by the services, and their right answers fit the types.

The services are the simulator's checks and answers, which are written against their real
refusals and know nothing of the client's rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Union
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, create_model

from llmflow.errors import ConfigurationError
from llmflow.simulator import SimulatorSettings
from llmflow.simulator.answer import answer
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.exchange import Call
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.typed.methods import ANSWER_TOOL, Chosen, OutputMethod, OutputMethods
from llmflow.typed.output_type import OutputType, as_output_type
from llmflow.typed.rules import (
    RULES_ANTHROPIC,
    RULES_LOOSE,
    RULES_OPENAI_LOOSE,
    RULES_OPENAI_STRICT,
)
from tests.examples import examples
from tests.typed.fourteen import BARE, FOURTEEN

SETTINGS = SimulatorSettings()
USER = [{"role": "user", "content": "Whales sing in the deep sea."}]
TYPES = {**FOURTEEN, **{f"bare {name}": kind for name, kind in BARE.items()}}
METHODS = {
    "openai": OutputMethods(
        ("json_schema", RULES_OPENAI_STRICT),
        ("json_schema", RULES_OPENAI_LOOSE),
        ("json_object", None),
        ("tool", RULES_LOOSE),
        ("prompt", None),
    ),
    "anthropic": OutputMethods(
        ("json_schema", RULES_ANTHROPIC), ("tool", RULES_LOOSE), ("prompt", None)
    ),
}


def asked(dialect: str, name: str, chosen: Chosen) -> Call:
    """Return what the service reads of a request, or raise its refusal."""
    schema, words = dict(chosen.schema), chosen.instructions
    if dialect == "openai":
        system = [{"role": "system", "content": words}] if words else []
        return read_chat(
            {
                "model": "gpt-5.1",
                "messages": [*system, *USER],
                **openai_fields(chosen.method, {"schema": schema, "strict": chosen.strict}, name),
            },
            SETTINGS,
        )
    body: dict[str, Any] = {"model": "claude-opus-5", "max_tokens": 20_000, "messages": USER}
    if chosen.method == "json_schema":
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    elif chosen.method == "tool":
        body["tools"] = [{"name": ANSWER_TOOL, "input_schema": schema}]
        body["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL}
    else:
        body["system"] = words
    return read_messages(body, SETTINGS, caching=False)


def openai_fields(method: str, sent: dict[str, Any], name: str) -> Mapping[str, Any]:
    if method == "json_schema":
        return {"response_format": {"type": method, "json_schema": {"name": name, **sent}}}
    if method == "tool":
        function = {"name": ANSWER_TOOL, "parameters": sent["schema"]}
        named = {"name": ANSWER_TOOL}
        return {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": named},
        }
    return {"response_format": {"type": "json_object"}} if method == "json_object" else {}


def check(kind: OutputType, dialect: str, method: OutputMethod | None) -> str | None:
    """See that a type's schema is taken and that its answer fits; return the method, if any."""
    methods = METHODS[dialect]
    try:
        chosen = (methods.forced_to(method) if method else methods).chosen(kind.output)
    except ConfigurationError:
        assert method is not None, "no method can express it"
        return None
    for varied in (False, True):
        call = asked(dialect, kind.output.name, chosen)
        said = answer(call, style="summary", varied=varied)
        kind.row(kind.parse(said.text))
    return chosen.method + ("" if chosen.strict else " loose")


OTHERS = {
    ("recursive", "anthropic"): "tool loose",
    ("dict of models", "openai"): "json_schema loose",
    ("dict of models", "anthropic"): "tool loose",
    ("bare dict", "openai"): "json_schema loose",
    ("bare dict", "anthropic"): "tool loose",
}


@pytest.mark.parametrize("dialect", METHODS)
@pytest.mark.parametrize("name", TYPES)
def test_every_method_is_taken_and_answered(name: str, dialect: str) -> None:
    kind = as_output_type(TYPES[name])
    expected = OTHERS.get((name, dialect), "json_schema")
    assert check(kind, dialect, None) == expected
    for method, _ in METHODS[dialect].methods:
        found = check(kind, dialect, method)
        if method != "json_schema":
            assert found == f"{method} loose"


# --- types by chance

WORDS = st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])
PLAIN = st.sampled_from(
    [
        *(str, int, float, bool, dt.date, dt.datetime, dt.time, dt.timedelta, Decimal, UUID),
        *(Literal["a", "b"], Literal[1, 2], Literal["x", 3], type(None)),
    ]
)


@st.composite
def bounded(draw: st.DrawFn) -> Any:
    low, high = sorted(draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50))))
    size = sorted(draw(st.tuples(st.integers(0, 4), st.integers(0, 4))))
    return draw(
        st.sampled_from(
            [
                Annotated[int, Field(ge=low, le=high)],
                Annotated[float, Field(gt=low, lt=high + 1)],
                Annotated[int, Field(multiple_of=abs(high) + 1)],
                Annotated[str, Field(min_length=size[0], max_length=size[1] + 1)],
                Annotated[str, Field(pattern=r"^[a-z]+\d{2}$")],
                Annotated[Decimal, Field(ge=low, le=high)],
                Annotated[list[int], Field(min_length=size[0], max_length=size[1] + 1)],
                Annotated[str, Field(description=f"Of {low}: {{see: {high}}}")],
            ]
        )
    )


@st.composite
def model(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    names = draw(st.lists(WORDS, min_size=0, max_size=5, unique=True))
    fields: dict[str, Any] = {}
    for name in names:
        kind = draw(inner)
        default = draw(st.sampled_from(["none", "null", "left out"]))
        if default == "none":
            fields[name] = (kind, ...)
        else:
            fields[name] = (Union[kind, None], None if default == "null" else ...)  # noqa: UP007
    doc = draw(st.sampled_from([None, "About {it}."]))
    return create_model(draw(WORDS).title(), __doc__=doc, **fields)  # type: ignore[call-overload]


def holding(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        model(inner),
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: dict[str, kind]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda kinds: Union[kinds]),  # noqa: UP007
        st.tuples(inner, inner).map(lambda kinds: tuple[kinds]),  # type: ignore[valid-type]
    )


KINDS = st.recursive(st.one_of(PLAIN, bounded()), holding, max_leaves=8)


@given(KINDS)
@examples(60)
def test_types_by_chance_are_taken_and_answered(kind: Any) -> None:
    if kind is type(None):
        return
    output = as_output_type(kind)
    for dialect, methods in METHODS.items():
        for method in (None, *dict.fromkeys(name for name, _ in methods.methods)):
            check(output, dialect, method)
