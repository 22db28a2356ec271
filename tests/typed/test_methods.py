"""The method by which a provider is asked for JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmflow.errors import ConfigurationError
from llmflow.parts import OutputSchema
from llmflow.typed.methods import OutputMethods
from llmflow.typed.rules import RULES_LOOSE, RULES_OPENAI_STRICT

CLOSED = OutputSchema(schema={"type": "object", "properties": {"a": {"type": "integer"}}})
OPEN = OutputSchema(schema={"type": "object", "additionalProperties": {"type": "integer"}})
ALL = OutputMethods(
    ("json_schema", RULES_OPENAI_STRICT),
    ("json_schema", RULES_LOOSE),
    ("tool", RULES_LOOSE),
    ("prompt", None),
)


def test_the_first_method_that_can_express_a_schema_is_chosen() -> None:
    methods = ALL.forced_to(None)
    assert (methods.chosen(CLOSED).method, methods.chosen(CLOSED).strict) == ("json_schema", True)
    assert (methods.chosen(OPEN).method, methods.chosen(OPEN).strict) == ("json_schema", False)


def test_a_choice_is_made_once() -> None:
    methods = ALL.forced_to(None)
    assert methods.chosen(CLOSED) is methods.chosen(CLOSED)


def test_a_method_that_the_server_refused_is_not_used_again() -> None:
    methods = ALL.forced_to(None)
    assert methods.refuse(CLOSED, "json_schema")
    assert methods.refuse(CLOSED, "json_schema"), "as calls in flight tell it again"
    assert methods.chosen(CLOSED).method == "tool"
    assert methods.refuse(CLOSED, "tool")
    assert methods.chosen(CLOSED).method == "prompt"
    assert '"a":{"type":"integer"}' in methods.chosen(CLOSED).instructions
    assert not methods.refuse(CLOSED, "prompt")
    assert methods.chosen(OPEN).method == "json_schema"


def test_refusals_of_calls_in_flight_leave_out_no_method() -> None:
    methods = ALL.forced_to(None)
    sent = methods.chosen(CLOSED)
    assert all(methods.refuse(CLOSED, sent) for _ in range(5))
    assert (methods.chosen(CLOSED).method, methods.chosen(CLOSED).strict) == ("json_schema", False)
    assert methods.refuse(CLOSED, methods.chosen(CLOSED))
    assert methods.chosen(CLOSED).method == "tool"


def test_an_error_of_one_prompt_refuses_no_method_that_has_given_an_answer() -> None:
    methods = ALL.forced_to(None)
    sent = methods.chosen(CLOSED)
    methods.answered(CLOSED, sent)
    assert not methods.refuse(CLOSED, sent)
    assert methods.chosen(CLOSED) is sent
    assert methods.refuse(OPEN, methods.chosen(OPEN)), "of another schema nothing is known"


def test_an_error_of_one_prompt_before_the_first_answer_refuses_a_method_until_then() -> None:
    methods = ALL.forced_to(None)
    sent = methods.chosen(CLOSED)
    assert methods.refuse(CLOSED, sent)
    second = methods.chosen(CLOSED)
    assert methods.refuse(CLOSED, second)
    methods.answered(CLOSED, sent)
    assert methods.chosen(CLOSED) is sent
    assert methods.refuse(CLOSED, methods.chosen(CLOSED)) is False
    assert methods.refuse(CLOSED, second), "a late one: the call is sent again by the method in use"
    assert methods.chosen(CLOSED) is sent


def test_a_server_that_shows_no_schema_gets_it_in_words_as_well() -> None:
    shown = OutputMethods(("json_schema", replace(RULES_OPENAI_STRICT, shown=True)))
    assert "JSON schema" in shown.chosen(CLOSED).instructions
    assert ALL.forced_to(None).chosen(CLOSED).instructions == ""


def test_a_forced_method_is_the_only_one() -> None:
    assert ALL.forced_to("tool").chosen(CLOSED).method == "tool"
    assert not ALL.forced_to("tool").refuse(CLOSED, "tool")
    with pytest.raises(ConfigurationError, match="use json_schema or tool or prompt"):
        ALL.forced_to("json_object")


def test_what_no_method_can_express_is_refused_with_the_place() -> None:
    methods = OutputMethods(("json_schema", RULES_OPENAI_STRICT))
    with pytest.raises(ConfigurationError, match="OpenAI's strict mode cannot express it: an obj"):
        methods.chosen(OPEN)


def test_the_tokens_of_a_schema_are_counted() -> None:
    large = OutputSchema(
        schema={
            "type": "object",
            "properties": {f"field_{n}": {"type": "integer"} for n in range(100)},
        }
    )
    methods = ALL.forced_to(None)
    assert methods.chosen(large).tokens > 10 * methods.chosen(CLOSED).tokens > 50
