"""OpenAI's batch API of the simulator, with OpenAI's official SDK as its client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import ConfigurationError
from llmflow.simulator import Simulator, SimulatorSettings
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches import bodies

pytestmark = pytest.mark.http

openai: Any = pytest.importorskip("openai")

FAST: dict[str, Any] = {
    "seconds": 0.0,
    "validation_seconds": 0.0,
    "finalizing_seconds": 0.0,
    "cancel_seconds": 0.0,
}


def settings(**batch: Any) -> SimulatorSettings:
    return SimulatorSettings(latency=0, batch=BatchSettings(**{**FAST, **batch}))


def client(sim: Simulator) -> Any:
    return openai.AsyncOpenAI(base_url=sim.url, api_key="sk-right", max_retries=0)


def row(number: int, **body: Any) -> dict[str, Any]:
    asked = {"model": "gpt-x", "messages": [{"role": "user", "content": f"Item {number}."}]}
    return {
        "custom_id": f"r-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**asked, **body},
    }


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def create(sdk: Any, *rows: Any, **more: Any) -> Any:
    file = await sdk.files.create(file=("in.jsonl", lines(*rows)), purpose="batch")
    return await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


async def until(sdk: Any, job: Any, *states: str) -> Any:
    async with asyncio.timeout(20):
        while job.status not in states:
            await asyncio.sleep(0.005)
            job = await sdk.batches.retrieve(job.id)
    return job


ENDED = ("completed", "failed", "expired", "cancelled")


async def results(sdk: Any, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    content = await sdk.files.content(file)
    return [json.loads(line) for line in content.text.splitlines()]


async def test_a_job_answers_as_live_requests_do() -> None:
    async with Simulator(settings()) as sim, client(sim) as sdk:
        asked = [row(n) for n in range(50)]
        job = await create(sdk, *asked, metadata={"tag": "a"})
        assert (job.status, job.metadata) == ("validating", {"tag": "a"})
        job = await until(sdk, job, *ENDED)
        assert (job.status, job.request_counts.completed, job.error_file_id) == (
            "completed",
            50,
            None,
        )
        got = await results(sdk, job.output_file_id)
        assert [line["custom_id"] for line in got] != [line["custom_id"] for line in asked]
        texts = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"] for r in got}
        assert len(texts) == 50
        live = await sdk.chat.completions.create(**asked[7]["body"])
        assert texts["r-7"]["content"] == live.choices[0].message.content
        assert [j.id async for j in sdk.batches.list(limit=1)] == [job.id]


async def test_files_are_kept_listed_and_deleted() -> None:
    async with Simulator(settings()) as sim, client(sim) as sdk:
        data = lines(*(row(n, user="x" * 1000) for n in range(2000)))
        file = await sdk.files.create(file=("in.jsonl", data), purpose="batch")
        assert (file.bytes, file.filename) == (len(data), "in.jsonl")
        assert (await sdk.files.content(file.id)).content == data
        assert [f.id async for f in sdk.files.list()] == [file.id]
        assert (await sdk.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(file.id)


@pytest.mark.parametrize(
    ("rows", "code", "line"),
    [
        ([row(1), row(1)], "duplicate_custom_id", 2),
        ([row(1), row(2, model="gpt-y")], "mismatched_model", 2),
        ([row(1, stream=True)], "streaming_unsupported", 1),
        ([row(1), {**row(2), "url": "/v1/embeddings"}], "invalid_url", 2),
        ([row(1), "text"], "invalid_json_line", 2),
        ([{"custom_id": "a"}], "missing_required_parameter", 1),
        ([], "empty_file", None),
    ],
)
async def test_a_bad_line_fails_the_job(rows: list[Any], code: str, line: int | None) -> None:
    async with Simulator(settings()) as sim, client(sim) as sdk:
        job = await until(sdk, await create(sdk, *rows), *ENDED)
        assert job.status == "failed"
        assert [(e.code, e.line) for e in job.errors.data] == [(code, line)]
        assert (job.request_counts.total, job.output_file_id, job.error_file_id) == (0, None, None)


async def test_rows_fail_expire_vanish_and_repeat() -> None:
    chances = {"error_rows": 0.2, "expired_rows": 0.2, "missing_rows": 0.2, "duplicate_rows": 0.2}
    async with Simulator(settings(**chances)) as sim, client(sim) as sdk:
        job = await until(sdk, await create(sdk, *(row(n) for n in range(200))), *ENDED)
        assert job.status == "expired"
        good = [r["custom_id"] for r in await results(sdk, job.output_file_id)]
        bad = await results(sdk, job.error_file_id)
        expired = [r for r in bad if r["error"] is not None]
        failed = [r for r in bad if r["error"] is None]
        assert {r["error"]["code"] for r in expired} == {"batch_expired"}
        assert {r["response"]["status_code"] for r in failed} == {500}
        assert len(good) > len(set(good))
        assert 0 < 200 - len(set(good)) - len(bad) < 100


async def test_a_stuck_job_can_be_cancelled_and_keeps_what_it_did() -> None:
    async with Simulator(settings(stuck_jobs=(1,))) as sim, client(sim) as sdk:
        job = await create(sdk, *(row(n) for n in range(10)))
        async with asyncio.timeout(20):
            while job.request_counts is None or job.request_counts.completed < 5:
                await asyncio.sleep(0.005)
                job = await sdk.batches.retrieve(job.id)
        assert job.status == "in_progress"
        await sdk.batches.cancel(job.id)
        job = await until(sdk, job, *ENDED)
        assert job.status == "cancelled"
        assert len(await results(sdk, job.output_file_id)) == 5
        assert len(await results(sdk, job.error_file_id)) == 5
        with pytest.raises(openai.ConflictError):
            await sdk.batches.cancel(job.id)


async def test_a_full_queue_fails_the_next_job() -> None:
    async with Simulator(settings(stuck_jobs=(1,), queue_tokens=50)) as sim, client(sim) as sdk:
        first = await create(sdk, *(row(n) for n in range(5)))
        await until(sdk, first, "in_progress")
        job = await until(sdk, await create(sdk, *(row(n) for n in range(5))), *ENDED)
        assert job.errors.data[0].code == "token_limit_exceeded"


async def test_a_lost_creation_is_found_in_the_list() -> None:
    trouble = settings(lost_creates=(1,), hidden_polls=2)
    async with Simulator(trouble) as sim, client(sim) as sdk:
        with pytest.raises(openai.APIConnectionError):
            await create(sdk, row(1), metadata={"tag": "mine"})
        (job,) = [j async for j in sdk.batches.list()]
        assert job.metadata == {"tag": "mine"}
        for _ in range(2):
            with pytest.raises(openai.NotFoundError):
                await sdk.batches.retrieve(job.id)
        assert (await until(sdk, job, *ENDED)).status == "completed"


async def test_jobs_survive_a_restart(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    async with Simulator(settings(state=state, stuck_jobs=(1,))) as sim, client(sim) as sdk:
        job = await create(sdk, *(row(n) for n in range(10)))
        await until(sdk, job, "in_progress")
    async with Simulator(settings(state=state)) as sim, client(sim) as sdk:
        job = await until(sdk, job, *ENDED)
        assert (job.status, job.request_counts.completed) == ("completed", 10)
        assert len(await results(sdk, job.output_file_id)) == 10


async def test_a_restart_without_the_input_fails_the_job(tmp_path: Path) -> None:
    stuck = settings(state=str(tmp_path), stuck_jobs=(1,))
    async with Simulator(stuck) as sim, client(sim) as sdk:
        job = await until(sdk, await create(sdk, row(1)), "in_progress")
        await sdk.files.delete(job.input_file_id)
    async with Simulator(stuck) as sim, client(sim) as sdk:
        job = await sdk.batches.retrieve(job.id)
        assert (job.status, job.errors.data[0].code) == ("failed", "file_not_found")


@pytest.mark.parametrize(
    "wrong", [{"seconds": -1}, {"error_rows": 0.9, "missing_rows": 0.9}, {"stuck_jobs": (0,)}]
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        BatchSettings(**wrong)


def test_a_form_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "form"
    content = b"a\r\n--\r\n--b\nc" * 9
    path.write_bytes(
        b'--bnd\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--bnd\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n'
        b'--bnd\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        + content
        + b"\r\n--bnd--\r\n"
    )
    parts = bodies.read_form(path, b"bnd")
    found = {n: path.read_bytes()[p.start : p.start + p.size] for n, p in parts.items()}
    assert found == {"purpose": b"batch", "empty": b"", "file": content}
    assert parts["file"].filename == "x"
