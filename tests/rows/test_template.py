"""Prompts made from rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import InputError
from llmflow.rows import PromptTemplate


@pytest.mark.parametrize(
    ("template", "row", "prompt"),
    [
        ("Summarize: {text}", {"text": "a"}, "Summarize: a"),
        ("{a}{b}{a}", {"a": "1", "b": "2"}, "121"),
        ('Answer {{"label": ...}}: {text}', {"text": "a"}, 'Answer {"label": ...}: a'),
        ("{{{text}}}", {"text": "a"}, "{a}"),
        ("{user.name}", {"user": {"name": "Ada"}}, "Ada"),
        ("{items[0]}", {"items": ["first"]}, "first"),
        ("{items[1].tags[key]}", {"items": [0, {"tags": {"key": "x"}}]}, "x"),
        ("{user.name}", {"user.name": "flat", "user": {"name": "deep"}}, "flat"),
        ("{Product name}", {"Product name": "kettle"}, "kettle"),
        ("{n} {x} {yes}", {"n": 3, "x": 0.5, "yes": True}, "3 0.5 true"),
        ("{tags}", {"tags": ["a", {"b": 1}]}, '["a",{"b":1}]'),
        ("{text}", {"text": "{other} {{x}}"}, "{other} {{x}}"),
        ("{text}", {"text": ""}, ""),
    ],
)
def test_fields_are_replaced(template: str, row: dict[str, Any], prompt: str) -> None:
    assert PromptTemplate(template).render(row) == prompt


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Summarize", "has no {field}"),
        ("", "has no {field}"),
        ("{{text}}", "has no {field}"),
        ("{text} }", "single '}'"),
        ("{text", "single '{'"),
        ("{}", "empty field"),
        ("{ }", "empty field"),
        ("{price:.2f}", "format specifications are not supported; write {price}"),
        ("{text!r}", "conversions are not supported; write {text}"),
        ('{"label": "x"} {text}', "Write {{ and }}"),
        ("{.name}", "cannot be read"),
        ("{items[0}", "cannot be read"),
        ("{items[]}", "cannot be read"),
        ("{a..b}", "cannot be read"),
    ],
)
def test_what_is_no_template_is_refused_with_the_remedy(template: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        PromptTemplate(template)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("template", "row", "said"),
    [
        ("{txt}", {"text": "a", "id": 1}, "row 17 has no field 'txt' (did you mean 'text'?)"),
        ("{txt}", {"text": "a", "id": 1}, "it has 'text', 'id'"),
        ("{txt}", {}, "it has no fields"),
        ("{txt}", {f"column {n}": 1 for n in range(30)}, "and 10 more"),
        ("{text}", {"text": None}, "row 17: field 'text' is null"),
        ("{user.nme}", {"user": {"name": "Ada"}}, "(did you mean 'name'?)"),
        ("{items[2]}", {"items": [1, 2]}, "'items' is a list of 2: it has no position 2"),
        ("{items.first}", {"items": [1, 2]}, "'first' is no position in it"),
        ("{items[-1]}", {"items": [1, 2]}, "'-1' is no position in it"),
        ("{items[²]}", {"items": [1, 2]}, "is no position in it"),
        ("{user.name}", {"user": "Ada"}, "'user' is text, neither an object nor a list"),
        ("{user.name}", {"user": None}, "'user' is null"),
        ("{user.name}", {"user": 1}, "'user' is a single value"),
    ],
)
def test_a_row_that_lacks_a_field_is_named(template: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        PromptTemplate(template).render(row, index=17)
    assert said in str(caught.value)


@pytest.mark.parametrize("field", ["text.__class__", "text.__class__.__mro__", "row.__globals__"])
def test_attributes_of_python_objects_are_out_of_reach(field: str) -> None:
    with pytest.raises(InputError):
        PromptTemplate(f"{{{field}}}").render({"text": "a"})


def test_check_says_what_the_first_row_lacks() -> None:
    template = PromptTemplate("{text}")
    template.render({"text": "a"}, index=0)
    with pytest.raises(InputError, match="row 0 has no field"):
        template.render({"body": "a"}, index=0)


def test_an_unnumbered_row_is_called_the_row() -> None:
    with pytest.raises(InputError, match="the row has no field 'text'"):
        PromptTemplate("{text}").render({})


def test_fields_are_listed_once_in_their_order() -> None:
    assert PromptTemplate("{b} {a.c} {b}").fields == ("b", "a.c")


def test_templates_of_the_same_text_are_equal() -> None:
    one, other = PromptTemplate("{a}"), PromptTemplate("{a}")
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == "PromptTemplate('{a}')"


@given(st.text(), st.text(), st.text())
def test_any_text_around_and_in_a_field_comes_out_unchanged(
    before: str, value: str, after: str
) -> None:
    def escape(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    template = PromptTemplate(escape(before) + "{text}" + escape(after))
    assert template.render({"text": value}) == before + value + after
