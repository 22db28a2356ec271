"""A plan is made of what a map takes: frames, texts, functions, chat messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmflow
from llmflow import LLM, Budget, Quota, make_plan
from llmflow.errors import InputError, UnknownArgumentError, UsageError
from llmflow.jobs.planning import Plan
from llmflow.limits.registry import forget_limiters
from llmflow.rows import PromptTemplate, Selection
from llmflow.runs.run import Run
from llmflow.testing import ScriptedProvider

TEXTS = ["The tide rises.", None, "The tide falls. " * 9]
ASK = "Summarize: {text}"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How high?"}]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    forget_limiters()
    yield
    forget_limiters()


def frames() -> list[Any]:
    """Return names of libraries and what makes each kind of frame of theirs."""
    kinds = {
        "pandas": ["DataFrame"],
        "polars": ["DataFrame", "LazyFrame"],
        "pyarrow": ["table", "record_batch"],
    }
    return [pytest.param(lib, kind, id=f"{lib}-{kind}") for lib in kinds for kind in kinds[lib]]


@pytest.mark.parametrize(("library", "kind"), frames())
def test_a_frame_is_planned_as_its_rows_are(library: str, kind: str) -> None:
    make = getattr(pytest.importorskip(library), kind)
    llm = LLM("sim/demo")
    expected = make_plan(llm, [{"text": each} for each in TEXTS], PromptTemplate(ASK))
    plan = make_plan(llm, make({"text": TEXTS, "other": [1, 2, 3]}), ASK)
    assert plan == expected
    assert (plan.items, plan.unusable, plan.left) == (3, 1, 2)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_series_is_planned_as_its_texts_are(library: str) -> None:
    module: Any = pytest.importorskip(library)
    series = module.array(TEXTS) if library == "pyarrow" else module.Series(TEXTS)
    llm = LLM("sim/demo")
    for prompt in (ASK, None):
        assert make_plan(llm, series, prompt) == make_plan(llm, TEXTS, prompt)


def test_a_column_that_is_not_there_is_named_at_once() -> None:
    frame = pytest.importorskip("pandas").DataFrame({"text": ["a"]})
    with pytest.raises(InputError, match=r"no field 'txt' \(did you mean 'text'\?\)"):
        make_plan(LLM("sim/demo"), frame, "{txt}")
    with pytest.raises(InputError, match="a frame's rows are no prompts"):
        make_plan(LLM("sim/demo"), frame)


@pytest.mark.parametrize(
    "prompt",
    [ASK, PromptTemplate(ASK), lambda row: f"Summarize: {row['text']}"],
    ids=["text", "template", "function"],
)
def test_the_prompt_is_what_a_map_takes(prompt: Any) -> None:
    provider = ScriptedProvider(default="yes")
    rows = [{"text": "a"}, {"text": "b"}]
    plan = make_plan(LLM(provider), rows, prompt, sample=2)
    assert plan.left == 2
    asked = sorted(str(each.messages[0]["content"]) for each in provider.requests)
    assert asked == ["Summarize: a", "Summarize: b"]


def test_what_a_map_has_answered_is_not_left() -> None:
    llm = LLM(ScriptedProvider(default="yes"))
    for number, (items, prompt) in enumerate(
        [(["a", "b"], ASK), (["a", "b"], None), ([CHAT, CHAT[1:]], None)]
    ):
        with Run(f"planned-{number}"):
            llm.map_sync(items[:1], prompt=prompt)  # type: ignore[arg-type]
        plan = make_plan(llm, items, prompt, run=f"planned-{number}")
        assert (plan.answered, plan.left) == (1, 1)


def test_chat_messages_count_with_their_texts() -> None:
    llm = LLM("sim/demo")
    one = make_plan(llm, ["Be brief.\nHow high?"])
    parts = [{"type": "text", "text": "How high?"}, {"type": "image_url", "image_url": {"url": ""}}]
    for chat in (CHAT, [CHAT[0], {"role": "user", "content": parts}]):
        plan = make_plan(llm, [chat] * 2)
        assert plan.repeated == 1
        assert plan.input_tokens.likely == 2 * (one.input_tokens.likely + 4)


def test_a_sample_asks_chat_messages_as_they_are() -> None:
    provider = ScriptedProvider(default="yes")
    plan = make_plan(LLM(provider), [CHAT], sample=1, run="chat")
    assert provider.requests[0].messages == tuple(CHAT)
    assert (plan.answered, plan.left) == (1, 0)
    assert plan.input_tokens_left.likely == 0


async def items_of(texts: list[str]) -> AsyncIterator[str]:
    for text in texts:
        yield text


@pytest.mark.parametrize(
    ("items", "prompt", "message"),
    [
        ("one text", ASK, r"give a list: \[text\]"),
        ({"text": "a"}, ASK, r"give a list: \[row\]"),
        (7, ASK, "something to iterate over; got int"),
        (items_of(["a"]), ASK, "collect them first"),
        (["a"], 7, "prompt must be a text"),
        (["a"], "no field", "has no {field}"),
    ],
)
def test_what_cannot_be_planned_is_refused(items: Any, prompt: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(LLM("sim/demo"), items, prompt)


def test_a_call_that_is_wrong_says_how_it_is_written() -> None:
    llm = LLM("sim/demo")
    with pytest.raises(UsageError, match=r"make_plan\(LLM\('sim/demo'\), items, prompt\)"):
        make_plan("sim/demo", ["a"], ASK)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"write make_plan\(llm, items, prompt, run=\.\.\.\)"):
        make_plan(llm, ["a"], ASK, "name")  # type: ignore[misc]
    with pytest.raises(UnknownArgumentError, match="did you mean 'prompt'"):
        make_plan(llm, ["a"], promt=ASK)  # type: ignore[call-arg]
    with pytest.raises(UnknownArgumentError, match=r"max_tokens belongs to LLM\(\.\.\.\)"):
        make_plan(llm, ["a"], ASK, max_tokens=5)  # type: ignore[call-arg]
    for sample in (-1, 2.5, "20", True):
        with pytest.raises(UsageError, match="sample must be a whole number"):
            make_plan(llm, ["a"], ASK, sample=sample)  # type: ignore[arg-type]


def test_a_budget_may_be_the_one_of_the_run() -> None:
    llm = LLM("openai/gpt-4.1", quota=Quota(rpm=60))
    plan = make_plan(llm, ["a"], ASK, budget=Budget(usd=5))
    assert plan.budget == make_plan(llm, ["a"], ASK, budget=5).budget
    assert plan.budget is not None
    assert plan.budget.usd == 5
    with pytest.raises(UsageError, match=r"Budget\(usd=5\)"):
        make_plan(llm, ["a"], ASK, budget=Budget(tokens=5))


async def test_it_plans_inside_a_running_loop() -> None:
    assert make_plan(LLM("sim/demo"), ["a"], ASK).left == 1
    with pytest.raises(UsageError, match=r"await asyncio\.to_thread\(make_plan"):
        make_plan(LLM(ScriptedProvider()), ["a"], ASK, sample=1)
    plan = await asyncio.to_thread(make_plan, LLM(ScriptedProvider()), ["a"], ASK, sample=1)
    assert plan.sample is not None


def test_it_is_found_where_the_rest_is() -> None:
    assert llmflow.make_plan is make_plan
    assert llmflow.Plan is Plan


class TestEmptyItems:
    """Items with nothing to ask about are counted, whatever they are."""

    @pytest.mark.parametrize(
        ("items", "prompt"),
        [
            ([{"text": "a"}, {"text": " "}, {"text": ""}], "Sum: {text}"),
            (["a", " ", ""], "Sum: {text}"),
            (["a", " ", ""], None),
            ([1, 2, 3], lambda item: "a" if item == 1 else " "),
        ],
    )
    def test_they_are_counted_and_asked(self, items: list[Any], prompt: Any) -> None:
        plan = make_plan(LLM("sim/demo"), items, prompt)
        assert (plan.empty, plan.first_empty, plan.left) == (2, 1, 3)
        assert "asked all the same" in " ".join(str(plan).split())

    def test_a_selection_leaves_them_out(self) -> None:
        rows = [{"text": "a"}, {"text": ""}, {}]
        selection = Selection(PromptTemplate("{text}"), on_bad_row="skip", skip_empty=True)
        plan = make_plan(LLM("sim/demo"), rows, selection)
        assert (plan.empty, plan.unusable, plan.left) == (1, 1, 1)
        assert (plan.skips_empty, plan.skips_unusable) == (True, True)


def test_it_says_who_has_set_a_limit(tmp_path: Path) -> None:
    config = tmp_path / "llmflow.toml"
    config.write_text("[providers.openai]\nquota = { rpm = 7 }\n")
    llms = {
        "the provider's default": LLM("sim/demo"),
        "llmflow.toml, line 2": LLM("openai/gpt-6-luna", config=config),
        "given": LLM("openai/gpt-6-sol", quota=Quota(rpm=5)),
    }
    for origin, llm in llms.items():
        plan = make_plan(llm, ["a"], ASK)
        assert plan.binding is not None
        assert (plan.binding.dimension, plan.binding.origin) == ("rpm", origin)
