"""`overhead`: CPU per request, against aiohttp as people write it."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

import aiohttp

from llmflow import LLM
from scenarios.measure import KEY, Options, prompts, server, through_llmflow, timed

CONCURRENCY = 100
MOST = 1.25


async def bare_loop(url: str, texts: list[str]) -> int:
    """Ask as people write it with aiohttp alone: a semaphore, ``json=``, ``r.json()``."""
    semaphore = asyncio.Semaphore(CONCURRENCY)
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(text: str) -> str:
            body = {"model": "bench", "messages": [{"role": "user", "content": text}]}
            async with semaphore, session.post(f"{url}/chat/completions", json=body) as reply:
                data = await reply.json()
                answer: str = data["choices"][0]["message"]["content"]
                return answer

        return len(await asyncio.gather(*(ask(text) for text in texts)))


def overhead(options: Options) -> dict[str, Any]:
    """Without limits or latency; medians of pairs of runs, one after the other."""
    texts = prompts(options.n or 5000)
    rounds: dict[str, list[dict[str, float]]] = {"bare": [], "llmflow": []}
    lost = 0
    with server(latency=0.0, answer="echo") as sim:
        llm = LLM("openai/bench", base_url=sim.url, api_key=KEY)

        async def bare() -> int:
            return await bare_loop(sim.url, texts)

        async def ours() -> int:
            nonlocal lost
            lost += (await through_llmflow(llm, texts, concurrency=CONCURRENCY)).lost
            return len(texts)

        async def main() -> None:
            await bare_loop(sim.url, texts[:300])
            await through_llmflow(llm, texts[:300], concurrency=CONCURRENCY)
            for _ in range(options.rounds):
                rounds["bare"].append(await timed(bare))
                rounds["llmflow"].append(await timed(ours))

        asyncio.run(main())
    result: dict[str, Any] = {
        "what": f"{len(texts):,} prompts of 1,000 characters, concurrency {CONCURRENCY}, "
        f"no limits, no latency; median of {options.rounds} pairs of runs",
        "formula": "CPU seconds per request / those of the bare aiohttp loop",
        "n": len(texts),
    }
    for name, figures in rounds.items():
        for key in ("per_second", "cpu_us"):
            result[f"{name}_{key}"] = statistics.median(each[key] for each in figures)
    pairs = list(zip(rounds["llmflow"], rounds["bare"], strict=True))
    for ratio, key in (("throughput_ratio", "per_second"), ("ratio", "cpu_us")):
        result[ratio] = statistics.median(ours[key] / bare[key] for ours, bare in pairs)
    result["lost"] = lost
    result["target"] = f"CPU ratio <= {MOST}"
    result["met"] = result["ratio"] <= MOST and not lost
    return result
