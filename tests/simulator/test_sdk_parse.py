"""The official SDKs' `parse` reads what is sent for every schema that they can send.

What they cannot: their schema of some types is outside the subset of the real service, which
refuses it with a 400. OpenAI's SDK leaves `oneOf`, defaults, open dictionaries and tuples as they
are; Anthropic's service takes no recursion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmflow.simulator import SimulatorSettings, SimulatorThread, serve_in_thread
from tests.typed.fourteen import FOURTEEN

pytestmark = pytest.mark.http

openai: Any = pytest.importorskip("openai")
anthropic: Any = pytest.importorskip("anthropic")

USER = [{"role": "user", "content": "Whales sing in the deep sea."}]
OPENAI_REFUSES = {
    "optional": "'default' is not permitted",
    "discriminated union": "'oneOf' is not permitted",
    "dict of models": "'additionalProperties' is required to be supplied and to be false",
    "tuple": "array schema missing items",
}
ANTHROPIC_REFUSES = {"recursive": "Circular reference detected"}


@pytest.fixture(name="sim", scope="module")
def _sim() -> Iterator[SimulatorThread]:
    with serve_in_thread(SimulatorSettings(latency=0)) as sim:
        yield sim


@pytest.fixture(name="chat", scope="module")
def _chat(sim: SimulatorThread) -> Iterator[Any]:
    with openai.OpenAI(base_url=sim.url, api_key="k", max_retries=0) as sdk:
        yield sdk.chat.completions


@pytest.fixture(name="claude", scope="module")
def _claude(sim: SimulatorThread) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=sim.root_url, api_key="k", max_retries=0) as sdk:
        yield sdk.messages


def taken(refused: dict[str, str]) -> list[str]:
    return [name for name in FOURTEEN if name not in refused]


def asked_openai(kind: type) -> dict[str, Any]:
    return {"model": "gpt-5.1", "messages": USER, "response_format": kind}


def asked_anthropic(kind: type) -> dict[str, Any]:
    return {"model": "claude-opus-5", "max_tokens": 4000, "messages": USER, "output_format": kind}


@pytest.mark.parametrize("name", taken(OPENAI_REFUSES))
def test_openai_parses_the_answer(name: str, chat: Any) -> None:
    asked = asked_openai(FOURTEEN[name])
    answer = chat.parse(**asked)
    with chat.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    values = [said.choices[0].message.parsed for said in (answer, streamed)]
    assert isinstance(values[0], FOURTEEN[name])
    assert values[0] == values[1]


async def test_the_asynchronous_sdks_parse_the_same(
    chat: Any, claude: Any, sim: SimulatorThread
) -> None:
    async with openai.AsyncOpenAI(base_url=sim.url, api_key="k", max_retries=0) as sdk:
        for name in taken(OPENAI_REFUSES):
            asked = asked_openai(FOURTEEN[name])
            said = [await sdk.chat.completions.parse(**asked), chat.parse(**asked)]
            assert len({repr(each.choices[0].message.parsed) for each in said}) == 1
    async with anthropic.AsyncAnthropic(base_url=sim.root_url, api_key="k", max_retries=0) as sdk:
        for name in taken(ANTHROPIC_REFUSES):
            asked = asked_anthropic(FOURTEEN[name])
            said = [await sdk.messages.parse(**asked), claude.parse(**asked)]
            assert len({repr(each.parsed_output) for each in said}) == 1


@pytest.mark.parametrize(("name", "why"), OPENAI_REFUSES.items())
def test_openais_sdk_sends_a_schema_that_is_refused(name: str, why: str, chat: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat.parse(**asked_openai(FOURTEEN[name]))
    assert why in str(caught.value)


@pytest.mark.parametrize("name", FOURTEEN)
def test_openai_reads_the_input_of_a_forced_tool(name: str, chat: Any) -> None:
    kind = FOURTEEN[name]
    parameters = {"type": "object", **kind.model_json_schema()}
    tool = {"type": "function", "function": {"name": "answer", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "answer"}}
    said = chat.create(model="gpt-5.1", messages=USER, tools=[tool], tool_choice=choice)
    (call,) = said.choices[0].message.tool_calls
    kind.model_validate_json(call.function.arguments)


@pytest.mark.parametrize("name", taken(ANTHROPIC_REFUSES))
def test_anthropic_parses_the_answer(name: str, claude: Any) -> None:
    asked = asked_anthropic(FOURTEEN[name])
    answer = claude.parse(**asked)
    with claude.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert isinstance(answer.parsed_output, FOURTEEN[name])
    assert answer.parsed_output == streamed.parsed_output


@pytest.mark.parametrize(("name", "why"), ANTHROPIC_REFUSES.items())
def test_anthropics_sdk_sends_a_schema_that_is_refused(name: str, why: str, claude: Any) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.parse(**asked_anthropic(FOURTEEN[name]))
    assert why in str(caught.value)


@pytest.mark.parametrize("name", FOURTEEN)
def test_anthropic_reads_the_input_of_a_forced_tool(name: str, claude: Any) -> None:
    kind = FOURTEEN[name]
    tool = {"name": "answer", "input_schema": {"type": "object", **kind.model_json_schema()}}
    said = claude.create(
        model="claude-opus-5",
        max_tokens=4000,
        messages=USER,
        tools=[tool],
        tool_choice={"type": "tool", "name": "answer"},
    )
    (block,) = said.content
    kind.model_validate(block.input)
