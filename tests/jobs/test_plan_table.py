"""A plan prints as a table that fits 80 columns and 24 lines, on a terminal and in a notebook."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from llmflow import LLM, Batch, Plan, Price, Quota, make_plan
from llmflow.limits.registry import forget_limiters
from llmflow.tables import HEIGHT, Line, html_table, text_table
from llmflow.testing import ScriptedProvider

ASK = "Summarize: {text}"
HOSTILE = "<script>alert(1)</script>"
WORDS = st.text(max_size=200)
LINES = st.lists(st.tuples(st.text("ab ", max_size=20), st.text(max_size=40), WORDS), max_size=15)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    forget_limiters()
    yield
    forget_limiters()


def everything() -> Plan:
    """Return a plan that has all the lines that there are, and much to say in each."""
    llm = LLM(
        "anthropic/claude-sonnet-4-5",
        api_key="-",
        quota=Quota(rpm=50, itpm=20_000, otpm=10_000, rpd=1_000),
        system="Answer with the words that you were asked with. " * 200,
        options={"cache_system": "1h"},
        batch=Batch(primer=True),
    )
    rows = [{"text": f"text {number % 900}"} for number in range(1000)]
    rows += [{HOSTILE: "x" * 100}, {"text": "tide " * 2_000_000}]
    return make_plan(llm, rows, ASK, budget=1.5)


class Texts(HTMLParser):
    """The texts of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_all_of_it_fits_a_screen() -> None:
    plan = everything()
    printed = str(plan).splitlines()
    assert len(printed) <= HEIGHT
    assert max(map(len, printed)) <= 80
    labels = [line[2:22].strip() for line in printed if line.startswith("  ") and line[2] != " "]
    for what in ("rows", "cannot be asked", "repeated", "left to ask", "cost", "time", "budget"):
        assert what in labels
    assert printed[0] == "plan: anthropic/claude-sonnet-4-5"


def test_a_program_is_told_its_own_arguments() -> None:
    plan = make_plan(LLM("sim/demo", max_tokens=5), ["a", "a"], ASK)
    said = f"{plan} {plan._repr_html_()}"
    assert "sample=20" in said
    assert "cache=True" in said
    assert not re.search(r"(?<!\S)--\w|\s-o\b", said)


def test_in_a_list_it_is_one_line() -> None:
    llm = LLM("openai/gpt-4.1", price=Price(input=1, output=2), quota=Quota(rpm=1), max_tokens=10)
    plan = make_plan(llm, ["a", None, "b"], ASK)
    assert repr([plan]).startswith("[<Plan: 2 of 3 rows left to ask openai/gpt-4.1, cost at most $")
    assert repr(plan).endswith(", time at least 2 min>")
    assert "\n" not in repr(plan)


def test_a_notebook_shows_all_of_it_escaped() -> None:
    plan = everything()
    page = Texts(plan._repr_html_())
    assert page.tags == {"table", "caption", "tbody", "tr", "th", "td"}
    assert any(HOSTILE in text for text in page.texts)
    assert not any("…" in text for text in page.texts)


def test_control_characters_of_the_input_reach_no_screen() -> None:
    rows = [{"text": "a"}, {"\x1b[2J\nred\u202e": 1}]
    plan = make_plan(LLM("sim/demo"), rows, ASK)
    for shown in (str(plan), repr(plan), plan._repr_html_()):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert "red" in str(plan)


def test_it_is_still_a_value() -> None:
    plan = make_plan(LLM(ScriptedProvider()), ["a"], ASK, sample=1)
    assert plan == copy.copy(plan) == pickle.loads(pickle.dumps(plan))


def test_what_is_wide_is_counted_in_columns() -> None:
    lines = [Line("cannot be asked", "1", "列" * 60), Line("cost", "列" * 50)]
    for line in text_table("計画" * 30, lines).splitlines():
        assert cell_len(line) <= 80
    assert text_table("", lines).count("列") == 110


@pytest.mark.parametrize("width", [40, 80, 200])
@given(title=WORDS, lines=LINES)
def test_whatever_the_lines_say_it_fits(
    width: int, title: str, lines: list[tuple[str, str, str]]
) -> None:
    table = text_table(title, [Line(*each) for each in lines], width=width, height=None)
    assert all(cell_len(line) <= width for line in table.splitlines())
    if width >= 80:
        short = text_table(title, [Line(*each) for each in lines], width=width, height=23)
        assert len(short.splitlines()) <= 23 or len(lines) > 10
    page = Texts(html_table(title, [Line(*each) for each in lines]))
    assert page.tags <= {"table", "caption", "tbody", "tr", "th", "td"}
