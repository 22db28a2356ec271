"""What a provider cannot send is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Budget, Run, make_plan
from llmflow.call_options import sendable
from llmflow.errors import ConfigurationError
from llmflow.parts import (
    Document,
    Image,
    OutputSchema,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llmflow.provider_registry import provider_for
from llmflow.simulator import SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider
from llmflow.types import Request

IMAGE = Image(data=b"secret", media_type="image/png")


def prompt(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("model", ["openai/x", "anthropic/x", "litellm/groq/x"])
@pytest.mark.parametrize(
    "part",
    [
        IMAGE,
        Document(url="https://x.test/a.pdf"),
        ToolCall(id="1", name="a", arguments={}),
        ToolResult(id="1", content="a"),
    ],
    ids=lambda part: part.kind,
)
def test_no_provider_of_llmflow_takes_parts_yet(model: str, part: Any) -> None:
    provider = provider_for(model, api_key="k")
    name = f"{provider.name}/{provider.model}"
    request = Request(model="x", messages=tuple(prompt(Text(text="Look"), part)))
    with pytest.raises(ConfigurationError, match=f"^{name} cannot be sent this {part.kind}: "):
        sendable(request, provider)


@pytest.mark.parametrize(
    "wanted",
    [Tool(name="a"), ToolChoice(name="a"), OutputSchema(schema={})],
    ids=lambda wanted: wanted.kind,
)
def test_tools_and_wanted_outputs_are_refused_alike(wanted: Any) -> None:
    request = Request(model="m", messages=({"role": "user", "content": "Hi"},), wanted=(wanted,))
    provider = ScriptedProvider()
    provider.sends = frozenset()
    with pytest.raises(ConfigurationError, match=f"cannot be sent this {wanted.kind}"):
        sendable(request, provider)
    assert sendable(request, ScriptedProvider(sends={wanted.kind})) is request


def test_the_message_names_provider_part_and_remedy_and_shows_no_bytes() -> None:
    with pytest.raises(ConfigurationError) as caught:
        LLM(ScriptedProvider(sends=["tool"])).run(prompt(IMAGE))
    assert str(caught.value) == (
        "scripted/model cannot be sent this image: Image(data=<6 bytes>, media_type='image/png'); "
        "of parts and outputs the provider takes output_schema, text, tool. Leave it out, give it "
        "in the provider's own format as a dict or in options, or ask a provider that takes it"
    )


async def test_a_refused_call_costs_nothing(tmp_path: Path) -> None:
    provider = ScriptedProvider()
    llm = LLM(provider)
    async with Run("images", folder=tmp_path, budget=Budget(requests=1)) as run:
        for ask in (llm, llm.complete, llm.submit):
            with pytest.raises(ConfigurationError, match="image"):
                await ask(prompt(IMAGE))
        assert await llm("Hi") == "ok"
        statistics = run.statistics()
    assert (statistics.answered, statistics.failed, statistics.requests) == (1, 0, 1)
    assert len(provider.requests) == 1


def test_a_plan_refuses_it_as_the_run_would() -> None:
    with pytest.raises(ConfigurationError, match="image"):
        make_plan(LLM(ScriptedProvider()), [1, 2], prompt=lambda _: prompt(IMAGE))


async def test_a_provider_that_takes_images_gets_them(tmp_path: Path) -> None:
    provider = ScriptedProvider(sends=["image"])
    asked = prompt(Text(text="Look"), IMAGE)
    for source in ("provider", "journal"):
        async with Run("images", folder=tmp_path):
            assert (await LLM(provider).complete(asked)).source == source
    (sent,) = provider.requests
    assert sent.messages == tuple(asked)


def test_parts_that_are_texts_are_a_text_to_everybody() -> None:
    provider = ScriptedProvider(sends=["image"])
    LLM(provider).run(prompt(Text(text="One."), Text(text="Two.")))
    LLM(provider).run([{"role": "user", "content": Text(text="Alone.")}])
    assert [each.messages[0]["content"] for each in provider.requests] == ["One.\n\nTwo.", "Alone."]


def test_texts_beside_parts_in_a_provider_s_format_are_in_it_too() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    provider = ScriptedProvider()
    LLM(provider).run(prompt(Text(text="Look"), picture))
    (sent,) = provider.requests
    assert sent.messages[0]["content"] == ({"type": "text", "text": "Look"}, picture)


@pytest.mark.parametrize("content", ["Hi", [{"type": "text", "text": "Hi"}], None, ("a", "b")])
def test_other_content_is_left_as_it_is(content: Any) -> None:
    request = Request(model="m", messages=({"role": "user", "content": content},))
    assert sendable(request, ScriptedProvider()) is request


def test_a_server_gets_texts_as_a_text() -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo")) as sim:
        for model, url in (("openai/x", sim.url), ("anthropic/x", sim.url.removesuffix("/v1"))):
            llm = LLM(model, base_url=url, api_key="k", max_tokens=50)
            assert "Naïve" in llm.run(prompt(Text(text="Naïve")))
