"""A batch without rows is refused in both dialects; no SDK is needed to see it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from llmflow.simulator import Simulator, SimulatorSettings
from llmflow.simulator.batch_settings import BatchSettings

pytestmark = pytest.mark.http

FAST: dict[str, Any] = {"seconds": 0.0, "validation_seconds": 0.0, "finalizing_seconds": 0.0}
SETTINGS = SimulatorSettings(latency=0, batch=BatchSettings(**FAST))


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n  \n"])
async def test_an_empty_file_fails_its_job_at_openai(content: bytes) -> None:
    headers = {"authorization": "Bearer k"}
    async with Simulator(SETTINGS) as sim, aiohttp.ClientSession(headers=headers) as web:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", content, filename="in.jsonl")
        async with web.post(f"{sim.url}/files", data=form) as reply:
            told = await reply.json()
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        body = {**asked, "input_file_id": told.get("id")}
        async with web.post(f"{sim.url}/batches", json=body) as reply:
            job = await reply.json()
        while job["status"] not in ("failed", "completed"):
            await asyncio.sleep(0.005)
            async with web.get(f"{sim.url}/batches/{job['id']}") as reply:
                job = await reply.json()
        assert job["status"] == "failed"
        assert [error["code"] for error in job["errors"]["data"]] == ["empty_file"]
        assert (job["output_file_id"], sim.stats().batches.rows_billed) == (None, 0)


@pytest.mark.parametrize("body", [{"requests": []}, {}])
async def test_an_empty_list_is_refused_at_anthropic(body: dict[str, Any]) -> None:
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    async with Simulator(SETTINGS) as sim, aiohttp.ClientSession(headers=headers) as web:
        async with web.post(f"{sim.url}/messages/batches", json=body) as reply:
            told = await reply.json()
        assert (reply.status, told["error"]["type"]) == (400, "invalid_request_error")
        assert "requests" in told["error"]["message"]
        assert sim.stats().batches.jobs_created == 0
