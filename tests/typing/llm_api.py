"""Checked by mypy and pyright only: what users see of the LLM's types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, assert_type

import polars as pl
from aiolimiter import AsyncLimiter

from llmflow import (
    LLM,
    Budget,
    Limiter,
    LimiterStatistics,
    Price,
    Quota,
    Response,
    Result,
    ResultList,
    Retry,
    Run,
    RunStatistics,
    Timeout,
    Usage,
    current_run,
    events,
)
from llmflow.batch import Batch
from llmflow.errors import LLMFlowError
from llmflow.mapping.sync_map import AnswerStream
from llmflow.provider import ClientProvider, Provider, WireProvider
from llmflow.simulator import SimulatorSettings, SimulatorStats, serve_in_thread
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow_providers.litellm import LiteLLMProvider
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.sim import SimProvider


async def calls() -> None:
    llm = LLM(
        "openai/gpt-6-luna",
        quota=Quota(rpm=500, tpm="200k"),
        retry=Retry(attempts=3),
        timeout=Timeout(total=60.0),
        gate=AsyncLimiter(10, 1),
    )
    assert_type(await llm("text"), str)
    assert_type(await llm([{"role": "user", "content": "text"}], max_tokens=5, top_p=0.9), str)
    response = await llm.complete("text", system="Be brief.", temperature=0.0, options={"n": 1})
    assert_type(response, Response)
    assert_type(response.text, str)
    assert_type(response.usage, Usage)
    assert_type(response.cost, float | None)
    assert_type(llm.run("text"), str)
    assert_type(llm.complete_sync("text"), Response)
    assert_type(llm.limiter, Limiter)
    assert_type(llm.limiter.statistics(), LimiterStatistics)
    assert_type(llm.limiter.statistics().limits, Mapping[str, float])


async def many(texts: list[str], numbers: AsyncIterator[int]) -> None:
    llm = LLM("sim/demo")
    async for result in llm.map(texts, prompt="Summarize: {text}", ordered=True, top_p=0.9):
        assert_type(result, Result[str])
        assert_type(result.item, str)
        assert_type(result.text, str)
        assert_type(result.response, Response | None)
        assert_type(result.error, LLMFlowError | None)
    assert_type(await llm.map(numbers, prompt=lambda n: f"{n + 1}"), ResultList[int])
    chats = ([{"role": "user", "content": text}] for text in texts)
    results = await llm.map(chats, on_error="raise", max_tokens=5)
    assert_type(results.texts(), list[str])
    assert_type(results.texts(default=None), list[str | None])
    frame = pl.DataFrame({"text": texts})
    assert_type(await llm.map(frame, prompt="{text}"), pl.DataFrame)
    assert_type(await llm.map(frame.lazy(), prompt=lambda row: row["text"]), pl.LazyFrame)
    assert_type(await llm.map(frame["text"]), Any)
    async for row in llm.map(frame, prompt="{text}"):
        assert_type(row.item, dict[str, Any])

    choices = llm.map(texts, mode="batch", deadline="6h", fallback="parallel", batch=Batch())
    assert_type(await choices, ResultList[str])
    assert_type(await llm.map(frame, prompt="{text}", progress=True, options={}), pl.DataFrame)
    assert_type(llm.varied(mode="auto"), LLM)


def many_sync(texts: list[str]) -> None:
    llm = LLM("sim/demo")
    assert_type(llm.map_sync(texts, prompt="{text}"), ResultList[str])
    assert_type(llm.map_sync(pl.DataFrame({"text": texts}), prompt="{text}"), pl.DataFrame)
    assert_type(llm.map_sync(texts, stream=True, ordered=True), AnswerStream[str])
    assert_type(
        llm.map_sync(texts, mode="auto", validate=lambda answer: answer.text != "", progress=True),
        ResultList[str],
    )
    for result in llm.map_sync(texts, stream=True, options={"min_p": 0.1}, batch=Batch()):
        assert_type(result.text, str)


async def runs() -> None:
    seen: list[events.Event] = []
    budget = Budget(usd=5, tokens=1_000_000, requests=1_000, seconds=60)
    async with Run("summaries", budget=budget, store="answers", on_event=seen.append) as run:
        assert_type(run, Run)
        assert_type(current_run(), Run | None)
        assert_type(await LLM("sim/demo")("text"), str)
        assert_type(run.statistics(), RunStatistics)
        assert_type(run.statistics().cost, float | None)
    with Run(budget=Budget(usd=1)) as counted:
        assert_type(counted.statistics().done, int)
    llm = LLM("sim/demo", journal="name", dedupe=True, price=Price(input=0.4, output=1.6))
    assert_type(llm.price, Price | None)
    LLM("sim/demo", journal=run, cache=True)


def providers() -> list[Provider]:
    wire: list[WireProvider] = [OpenAIProvider("x"), SimProvider("x")]
    client: list[ClientProvider] = [LiteLLMProvider("x"), ScriptedProvider()]
    return [*wire, *client]


def simulator() -> None:
    with serve_in_thread(SimulatorSettings(rpm=600, tpm="100k")) as sim:
        assert_type(sim.url, str)
        assert_type(sim.stats(), SimulatorStats)
    assert_type(run_virtual(LLM(ScriptedProvider(["a"]))("Hi")), str)
