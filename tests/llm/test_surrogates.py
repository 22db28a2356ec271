"""Half of a surrogate pair in what is asked is sent as U+FFFD, whoever is asked."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from llmflow import LLM, Run
from llmflow.calls.replay import canonical
from llmflow.errors import ProviderError
from llmflow.simulator import SimulatorSettings, serve_in_thread
from llmflow.types import Request

HALF, PAIR, BYTE = chr(0xD83D), chr(0xD83D) + chr(0xDE00), "\udcff"


@pytest.mark.parametrize("model", ["openai/x", "anthropic/claude-x"])
@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (f"cut {HALF}", "cut \ufffd"),
        (f"whole {PAIR}", "whole \U0001f600"),
        (f"bytes {BYTE}", "bytes \ufffd"),
    ],
)
def test_a_prompt_with_half_a_surrogate_pair_is_sent_and_answered(
    model: str, text: str, sent: str
) -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo")) as sim:
        url = sim.url if model.startswith("openai") else sim.url.removesuffix("/v1")
        try:
            llm = LLM(model, base_url=url, api_key="k", max_tokens=50)
            assert sent in llm.run(text)
            assert sent in llm.run([{"role": "user", "content": text}], system=text)
        except ProviderError as error:  # pragma: no cover - what is wrong is to be seen
            pytest.fail(repr(error))


async def test_the_journal_takes_it_for_the_question_that_was_sent(tmp_path: Path) -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo")) as sim:
        llm = LLM("openai/x", base_url=sim.url, api_key="k")
        async with Run("halves", folder=tmp_path):
            first = await llm.complete(f"cut {HALF}")
        async with Run("halves", folder=tmp_path):
            again = await llm.complete("cut \ufffd")
    assert (first.source, again.source) == ("provider", "journal")


def test_a_provider_with_a_client_of_its_own_has_one_key_for_it() -> None:
    def key(text: str) -> bytes:
        return canonical(Request(model="m", messages=({"role": "user", "content": text},)))

    assert key(f"cut {HALF}") == key("cut \ufffd")
    assert orjson.loads(key(f"cut {HALF}"))[0][0]["content"] == "cut \ufffd"


def test_litellm_is_handed_text_that_utf8_can_hold() -> None:
    from llmflow_providers.litellm import LiteLLMProvider

    request = Request(model="m", messages=({"role": "user", "content": HALF},), system=BYTE)
    arguments = LiteLLMProvider("openai/m", api_key="k")._arguments(request, 1.0)
    assert [each["content"] for each in arguments["messages"]] == ["\ufffd", "\ufffd"]
