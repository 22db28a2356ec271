"""A further dialect is one small module: everything else is the simulator's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from llmflow.simulator import Engine, Faults, Reply, Simulator, SimulatorSettings, known_dialects
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches.service import Batches
from tests.simulator import completions_dialect
from tests.simulator.completions_dialect import CompletionsDialect

HELLO = {"model": "m", "prompt": "Whales sing.", "max_tokens": 9}
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = (CompletionsDialect, *known_dialects.DIALECTS)
    monkeypatch.setattr(known_dialects, "DIALECTS", known)


def ask(engine: Engine, body: Any = None, *, key: str = "k") -> Reply:
    return engine.receive(
        "POST",
        "/v1/completions",
        headers={"authorization": f"Bearer {key}"},
        body=orjson.dumps(HELLO if body is None else body),
        now=0.0,
    )


def target(**settings: Any) -> Engine:
    return Engine(SimulatorSettings(**{"latency": 0, **settings}), now=0.0, wall=NOW)


def test_a_dialect_with_batch_jobs_is_at_most_200_lines() -> None:
    assert len(Path(completions_dialect.__file__).read_text("utf-8").splitlines()) <= 200


def test_it_answers_and_streams() -> None:
    assert orjson.loads(ask(target()).body)["text"] == "Whales sing."
    events = ask(target(), {**HELLO, "stream": True}).events
    assert events is not None
    assert b"".join(events).startswith(b'data: {"text":"Whales"}\n\n')


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "m"}, "prompt: Field required"),
        ({**HELLO, "max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({**HELLO, "top": 1}, "top: Extra inputs are not permitted"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_it_is_strict(body: Any, words: str) -> None:
    reply = ask(target(), body)
    assert reply.status == 422
    assert words in orjson.loads(reply.body)["detail"]


def test_it_has_keys_models_quotas_and_faults() -> None:
    locked = target(api_key="right", models=("m",), rpm=1)
    assert [ask(locked, key=key).status for key in ("", "wrong", "right", "right")] == [
        *(401, 401),
        *(200, 429),
    ]
    shown = dict(line.split(": ") for line in ask(target(rpm=60, tpm=600)).headers.splitlines())
    assert (shown["quota-requests-remaining"], shown["quota-tokens-remaining"]) == ("59", "588")
    assert shown["quota-requests-reset"] == "1.000"
    assert ask(target(models=("n",))).status == 404
    assert ask(target(faults=Faults(overloaded=1.0))).status == 503


@pytest.mark.parametrize("error_rows", [0, 1])
def test_its_jobs_are_carried_on_by_the_clock(error_rows: float) -> None:
    settings = BatchSettings(seconds=10, error_rows=error_rows)
    batches = Batches(SimulatorSettings(batch=settings))

    def request(method: str, path: str, body: Any = None, now: float = 0.0) -> Any:
        reply = batches.receive(
            method,
            f"/v1/jobs{path}",
            headers={"authorization": "Bearer k"},
            body=orjson.dumps(body),
            upload=None,
            now=NOW + now,
            later=lambda _: None,
        )
        assert reply is not None
        if reply.file is not None:
            return [orjson.loads(line) for line in reply.file.path.read_bytes().splitlines()]
        return orjson.loads(reply.body)

    try:
        rows = [{"custom_id": f"r-{n}", "body": HELLO} for n in range(20)]
        job = request("POST", "", {"rows": [*rows, {"custom_id": "bad", "body": {}}]})
        assert (job["state"], job["total"]) == ("running", 21)
        while (due := batches.advance(NOW + 11)) is not None:
            assert due <= NOW + 11
        job = request("GET", f"/{job['id']}")
        failed = 21 if error_rows else 1
        assert job["state"] == "completed"
        assert job["counts"].get("errored") == failed
        assert [each["id"] for each in request("GET", "?limit=5")["data"]] == [job["id"]]
        lines = {line["custom_id"]: line for line in request("GET", f"/{job['id']}/results")}
        assert len(lines) == 21
        assert (lines["r-3"]["kind"] == "succeeded") is not bool(error_rows)
        assert request("POST", f"/{job['id']}/cancel")["detail"].endswith(" has ended")
        assert request("GET", "/job_none")["detail"] == "no job job_none"
    finally:
        batches.close()


async def test_it_is_served_over_http_beside_the_others() -> None:
    async with Simulator(SimulatorSettings(latency=0)) as sim, aiohttp.ClientSession() as client:
        async with client.post(f"{sim.url}/completions", json=HELLO) as answer:
            assert (await answer.json())["text"] == "Whales sing."
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        async with client.post(f"{sim.url}/chat/completions", json=chat) as answer:
            assert (await answer.json())["object"] == "chat.completion"
        async with client.post(f"{sim.url}/jobs", json={"rows": [{"custom_id": "a"}]}) as answer:
            assert (await answer.json())["state"] == "running"
