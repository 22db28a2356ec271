"""Modes by themselves: what each encodes, and modes of the members of a pool."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.calls.call import Call, Route
from llmflow.calls.mode_options import ModeOptions
from llmflow.errors import ContentFilterError
from llmflow.journal import read_jobs
from llmflow.testing import ScriptedProvider
from llmflow.types import Request, Response, WireRequest
from tests.batch.fakes import FakeProvider, FakeServer
from tests.calls.test_pipeline import pooled

QUICK = Batch(quiet=0.02, poll=0.005)


class Counting(FakeProvider):
    """Counts how often a request is encoded."""

    encoded = 0

    def encode(self, request: Request) -> WireRequest:
        self.encoded += 1
        return super().encode(request)


@pytest.mark.parametrize("temperature", [0.5, 0.0])
async def test_a_replayed_call_is_never_encoded(tmp_path: Path, temperature: float) -> None:
    provider = Counting(FakeServer())
    llm = LLM(provider, batch=QUICK, temperature=temperature)
    for encoded in (3, 3):
        async with Run("run", mode="batch", folder=tmp_path) as run:
            answers = await asyncio.gather(*(llm(f"{n}") for n in range(3)))
            assert answers == [f"batch: {n}" for n in range(3)]
            assert not await llm.submit("0") or encoded == 3
            await run.settled()
        assert provider.encoded == encoded


async def test_what_no_job_answers_is_not_encoded_for_one() -> None:
    provider = Counting(FakeServer())
    llm = LLM(provider, batch=QUICK, mode="auto")
    assert await llm("1") == "live: 1"
    assert provider.encoded == 0, "its client encodes live calls"


def failing(model: str) -> tuple[FakeServer, Route]:
    server = FakeServer(fate=lambda prompt, job: ContentFilterError("no"))
    return server, LLM(FakeProvider(server, model=model), batch=QUICK).call_for("")[1].route


def answering(model: str) -> tuple[FakeServer, Route]:
    server = FakeServer()
    return server, LLM(FakeProvider(server, model=model), batch=QUICK).call_for("")[1].route


async def asked(folder: Path, members: list[Route], **options: Any) -> Response:
    request = LLM(members[0].provider).call_for("Hi")[1].request
    async with Run("pool", folder=folder) as run:
        call = Call(request, members[0], mode_options=ModeOptions(mode="batch", **options))
        response = await asyncio.wait_for(pooled(run.session, members)(call), 10)
        await asyncio.wait_for(run.settled(), 10)
    return response


async def test_members_of_a_pool_have_jobs_of_their_own(tmp_path: Path) -> None:
    (one, first), (two, second) = failing("one"), answering("two")
    response = await asked(tmp_path, [first, second])
    assert response.text == "batch: Hi"
    assert (one.sizes, two.sizes) == ([1], [1])
    assert [each["state"] for each in read_jobs(tmp_path / "pool")] == ["done", "done"]
    again = await asked(tmp_path, [first, second])
    assert (again.source, one.sizes, two.sizes) == ("journal", [1], [1])


async def test_a_member_without_a_batch_api_is_asked_live(tmp_path: Path) -> None:
    (one, first), live = failing("one"), LLM(ScriptedProvider(["from the second"]))
    response = await asked(tmp_path, [first, live.call_for("")[1].route], fallback="parallel")
    assert response.text == "from the second"
    assert one.sizes == [1]
    assert {each["state"] for each in read_jobs(tmp_path / "pool")} == {"done"}
