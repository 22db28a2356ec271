"""Each method of asking for a schema, against a server that refuses what the real one refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmflow import LLM
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import SimulatorSettings, SimulatorThread, serve_in_thread
from llmflow.typed.methods import OutputMethod
from tests.typed.fourteen import BARE, FOURTEEN

ALL_TYPES = {**FOURTEEN, **{f"bare {name}": each for name, each in BARE.items()}}


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[SimulatorThread]:
    server = serve_in_thread(SimulatorSettings(rpm=1e6, tpm=1e9))
    yield server
    server.close()
    forget_limiters()


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("sim/any", None),
        ("openai/gpt-6-luna", None),
        ("openai/gpt-6-luna", "tool"),
        ("openai/gpt-6-luna", "json_object"),
        ("openai/gpt-6-luna", "prompt"),
        ("openai/gpt-4-turbo", None),
        ("openai/gpt-3.5-turbo", "prompt"),
        ("anthropic/claude-sonnet-5-5", None),
        ("anthropic/claude-sonnet-5-5", "tool"),
        ("anthropic/claude-sonnet-5-5", "prompt"),
        ("anthropic/claude-3-7-sonnet-20250219", None),
        ("anthropic/claude-opus-4-1", None),
    ],
)
async def test_every_type_comes_back_by_every_method(
    server: SimulatorThread, model: str, method: OutputMethod | None
) -> None:
    async def ask(output_type: Any) -> object:
        llm = LLM(
            model,
            base_url=server.url,
            api_key="k",
            output_type=output_type,
            output_method=method,
            reasks=0,
        )
        response = await llm.complete("Say something.", max_tokens=4000)
        assert response.finish_reason == "stop"
        return response.parsed

    values = await asyncio.gather(*map(ask, ALL_TYPES.values()), return_exceptions=True)
    named = zip(ALL_TYPES, values, strict=True)
    wrong = {name: each for name, each in named if isinstance(each, BaseException)}
    assert wrong == {}
