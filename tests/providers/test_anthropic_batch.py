"""Anthropic's Message Batches: replies as they were seen."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.provider import BatchAPI, BatchStatus
from llmflow.types import Request
from llmflow_providers import batch_base
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.anthropic.anthropic_batch import AnthropicBatch
from tests.providers.batching import NOW, Script, reply, rows_in

BASE = "https://api.anthropic.com/v1/messages/batches"
KEY = "sk-ant-secret-key-123456"
MADE = "2026-09-01T00:00:00Z"
MADE_AT = 1_788_220_800.0


def batch(**options: Any) -> AnthropicBatch:
    return AnthropicProvider(**{"model": "claude-x", "api_key": KEY, **options}).batch


def job(status: str = "in_progress", **parts: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    counts |= {name: parts.pop(name) for name in list(parts) if name in counts}
    return {
        "id": "msgbatch_1",
        "processing_status": status,
        "request_counts": counts,
        "created_at": MADE,
        "expires_at": "2026-09-02T00:00:00Z",
        "results_url": None,
        **parts,
    }


def refusal(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def test_it_is_a_batch_api_for_mixed_models() -> None:
    api = batch()
    assert isinstance(api, BatchAPI)
    assert (api.limits.requests, api.limits.mixed_models) == (100_000, True)


def test_a_row_is_the_live_call_with_a_name() -> None:
    provider = AnthropicProvider("claude-x", api_key=KEY)
    asked = Request(model="claude-x", messages=({"role": "user", "content": "a\nb"},))
    wire = provider.encode(asked)
    line = batch().line("r1-0", wire)
    assert b"\n" not in line
    assert orjson.loads(line) == {"custom_id": "r1-0", "params": orjson.loads(wire.body)}


@pytest.mark.parametrize("at_once", [1, 7, 2**19])
async def test_the_rows_of_a_file_become_one_request(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_base, "AT_ONCE", at_once)
    given = [{"custom_id": f"r{n}", "params": {"text": "one\nline, two"}} for n in range(3)]
    rows = rows_in(tmp_path, *map(orjson.dumps, given))
    channel = Script(reply(job(processing=3)))
    assert await batch().upload(rows, channel) is None
    status = await batch().create(rows, None, channel)
    assert channel.asked == [("POST", BASE)]
    assert orjson.loads(channel.bodies[0]) == {"requests": given}
    assert channel.wires[0].headers["x-api-key"] == KEY
    assert (status.id, status.state, status.total) == ("msgbatch_1", "running", 3)
    assert (status.created_at, status.expires_at) == (MADE_AT, MADE_AT + 86_400)


@pytest.mark.parametrize(
    ("native", "counts", "state"),
    [
        ("in_progress", {"processing": 3}, "running"),
        ("in_progress", {"processing": 1, "succeeded": 2}, "running"),
        ("canceling", {"processing": 3}, "cancelling"),
        ("ended", {"succeeded": 3}, "succeeded"),
        ("ended", {"errored": 3}, "succeeded"),
        ("ended", {"canceled": 3}, "cancelled"),
        ("ended", {"canceled": 2, "succeeded": 1}, "succeeded"),
        ("ended", {"expired": 1, "succeeded": 2}, "expired"),
        ("ended", {}, "succeeded"),
        ("resting", {"processing": 3}, "running"),
    ],
)
async def test_every_state_has_its_meaning(native: str, counts: dict[str, int], state: str) -> None:
    answer = reply(job(native, **counts), retry_after="10")
    status = await batch().status("msgbatch_1", Script(answer))
    assert status.state == state
    assert status.total == sum(counts.values())
    assert status.retry_after == 10.0


async def test_counts_that_are_missing_are_not_known() -> None:
    status = await batch().status("m", Script(reply(job(request_counts=None))))
    assert (status.total, status.succeeded, status.failed) == (None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "This request would exceed the number of batch requests in the processing queue.",
        "Too many requests in queue for the Message Batches API.",
    ],
)
async def test_a_full_queue_is_told_apart_from_a_rate_limit(text: str, tmp_path: Path) -> None:
    rows = rows_in(tmp_path, b"{}")
    full = reply(refusal("rate_limit_error", text), 429, retry_after="12")
    with pytest.raises(errors.QueueLimitError) as caught:
        await batch().create(rows, None, Script(full))
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (restored.limit, restored.retry_after, restored.status) == (None, 12.0, 429)
    fast = refusal("rate_limit_error", "would exceed the rate limit of 50 requests per minute")
    with pytest.raises(errors.RateLimitError) as limited:
        await batch().create(rows, None, Script(reply(fast, 429)))
    assert not isinstance(limited.value, errors.QueueLimitError)


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_batches_is_named(status: int, tmp_path: Path) -> None:
    api = batch(base_url="http://localhost:9")
    with pytest.raises(errors.BatchUnsupportedError, match="localhost:9"):
        await api.create(rows_in(tmp_path, b"{}"), None, Script(reply(b"no", status)))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", {"id": 7}])
async def test_a_creation_with_an_unreadable_reply_is_not_known_to_have_failed(
    body: object, tmp_path: Path
) -> None:
    with pytest.raises(errors.BadReplyError) as caught:
        await batch().create(rows_in(tmp_path, b"{}"), None, Script(reply(body)))
    assert (caught.value.status, caught.value.transient) == (200, True)


async def test_an_unknown_job_is_a_404_and_about_no_model() -> None:
    channel = Script(reply(refusal("not_found_error", "no batch"), 404))
    with pytest.raises(errors.InvalidRequestError) as caught:
        await batch().status("../x", channel)
    assert (caught.value.status, caught.value.fatal) == (404, False)
    assert channel.asked == [("GET", f"{BASE}/..%2Fx")]


async def test_a_job_is_found_by_its_time_and_its_size(tmp_path: Path) -> None:
    rows = rows_in(tmp_path, b"{}", b"{}", created_at=MADE_AT - 5)
    first = {"data": [job(id="a", processing=3), job(id="b", succeeded=2)], "has_more": True}
    second = {"data": [job(id="c", processing=1, errored=1)], "has_more": False}
    channel = Script(reply(first), reply(second))
    found = await batch().find(rows, {"b"}, channel)
    assert found is not None
    assert found.id == "c"
    assert [url for _, url in channel.asked] == [
        f"{BASE}?limit=100",
        f"{BASE}?limit=100&after_id=b",
    ]


@pytest.mark.parametrize(("late", "found"), [(-5, True), (50, True), (70, False)])
async def test_a_job_that_is_older_than_its_file_is_another_one(
    late: float, found: bool, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path, b"{}", created_at=MADE_AT + late)
    page = {"data": [job(processing=1)], "has_more": True}
    status = await batch().find(rows, (), Script(reply(page), reply({"data": []})))
    assert (status is not None) == found


@pytest.mark.parametrize("odd", ["1e999", 10**18, -1, [], True])
async def test_a_time_that_is_none_is_not_known(odd: object) -> None:
    status = await batch().status("a", Script(reply({**job(id="a"), "expires_at": odd})))
    assert status.expires_at is None


async def test_the_servers_clock_counts_for_the_servers_times(tmp_path: Path) -> None:
    # By the local clock, an hour ahead, the job was made long before the file.
    rows = rows_in(tmp_path, b"{}", created_at=NOW - 10)
    made = {**job(processing=1), "created_at": "2026-08-31T22:59:15Z"}
    page = {"data": [made], "has_more": False}
    answer = reply(page, date="Mon, 31 Aug 2026 22:59:20 GMT")
    found = await batch().find(rows, (), Script(answer))
    assert found is not None
    assert await batch().find(rows, (), Script(reply(page))) is None


async def test_a_clock_that_was_put_back_meanwhile_hides_no_job(tmp_path: Path) -> None:
    # The job was made right after its file; then the local clock went back by an hour.
    rows = rows_in(tmp_path, b"{}", created_at=NOW + 3600 - 10)
    made = {**job(processing=1), "created_at": "2026-09-01T00:59:55Z"}
    page = {"data": [made], "has_more": False}
    answer = reply(page, date="Tue, 01 Sep 2026 01:00:00 GMT")
    assert await batch().find(rows, (), Script(answer)) is not None


async def test_an_end_that_comes_anyway_is_no_error() -> None:
    late = reply(refusal("invalid_request_error", "has ended"), 400)
    await batch().cancel("m", Script(late, reply(job("ended", succeeded=1))))
    await batch().cancel("m", Script(reply(job("canceling"))))
    with pytest.raises(errors.InvalidRequestError):
        await batch().cancel("m", Script(late, reply(job())))


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (f"{BASE}/msgbatch_1/results?part=1", f"{BASE}/msgbatch_1/results?part=1"),
        ("https://evil.example/results", f"{BASE}/msgbatch_1/results"),
        ("https://api.anthropic.com.evil.example/x", f"{BASE}/msgbatch_1/results"),
        ("http://api.anthropic.com/x", f"{BASE}/msgbatch_1/results"),
        ("https://api.anthropic.com@evil.example/x", f"{BASE}/msgbatch_1/results"),
    ],
)
async def test_the_key_goes_to_the_providers_own_place_alone(
    url: str, asked: str, tmp_path: Path
) -> None:
    api = batch()
    ended = reply(job("ended", succeeded=1, results_url=url))
    channel = Script(ended, reply(b"row\n"), reply(b"row\n"))
    status = await api.status("msgbatch_1", channel)
    once = await api.fetch(status, tmp_path / "results", channel)
    assert once == await api.fetch(status, tmp_path / "results", channel)
    assert [path.read_bytes() for path in once] == [b"row\n"]
    assert channel.asked[1:] == [("GET", asked)] * 2


async def test_a_job_without_results_fetches_none_and_leaves_nothing_to_delete(
    tmp_path: Path,
) -> None:
    channel = Script()
    status = BatchStatus(id="m", state="succeeded")
    assert await batch().fetch(status, tmp_path, channel) == []
    await batch().clean_up(status, channel)
    assert channel.asked == []


async def test_results_that_are_not_there_yet_are_an_error(tmp_path: Path) -> None:
    status = BatchStatus(id="m", state="succeeded", results=("x",))
    early = reply(refusal("not_found_error", "has no available results."), 404)
    with pytest.raises(errors.InvalidRequestError, match="no available results"):
        await batch().fetch(status, tmp_path, Script(early))


def row(name: object, **result: object) -> bytes:
    return orjson.dumps({"custom_id": name, "result": result})


MESSAGE = {
    "id": "msg_1",
    "model": "claude-x-1",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 8, "cache_read_input_tokens": 4, "output_tokens": 2},
}


def test_an_answer_is_read_as_a_live_one() -> None:
    name, response, error = batch().read(row("r-1", type="succeeded", message=MESSAGE))
    assert (name, error) == ("r-1", None)
    assert response is not None
    assert (response.text, response.finish_reason, response.model) == ("hi", "stop", "claude-x-1")
    assert (response.usage.total_tokens, response.usage.cached_tokens) == (14, 4)
    assert response.request_id == "msg_1"


def errored(kind: str, message: str) -> bytes:
    return row("r", type="errored", error=refusal(kind, message))


@pytest.mark.parametrize(
    ("line", "kind", "status"),
    [
        (errored("invalid_request_error", "Field required"), errors.InvalidRequestError, 400),
        (errored("invalid_request_error", "prompt is too long: 9"), errors.ContextLengthError, 400),
        (errored("not_found_error", "model: x"), errors.ModelNotFoundError, 404),
        (errored("rate_limit_error", "slow"), errors.RateLimitError, 429),
        (errored("api_error", "sorry"), errors.ServerError, 500),
        (errored("overloaded_error", "busy"), errors.OverloadedError, 529),
        (errored("news", "what?"), errors.ServerError, 500),
        (row("r", type="errored", error=None), errors.ServerError, 500),
        (row("r", type="canceled"), errors.BatchRowLostError, None),
        (row("r", type="expired"), errors.BatchRowLostError, None),
        (row("r", type="succeeded"), errors.BadReplyError, 200),
        (row("r", type="succeeded", message={"content": 7}), errors.BadReplyError, 200),
    ],
)
def test_what_failed_has_the_class_of_a_live_failure(
    line: bytes, kind: type[errors.ProviderError], status: int | None
) -> None:
    name, response, error = batch().read(line)
    assert (name, response) == ("r", None)
    assert error is not None
    assert (type(error), error.status) == (kind, status)


@pytest.mark.parametrize(("kind", "code"), [("expired", "expired"), ("canceled", "cancelled")])
def test_a_row_that_was_never_run_says_why(kind: str, code: str) -> None:
    error = batch().read(row("r", type=kind)).error
    assert error is not None
    assert (error.code, error.transient) == (code, True)


@pytest.mark.parametrize(
    "line",
    [b"", b'{"custom_id":"r","res', b"[]", b"7", b"{}", row(7, type="expired"), row("r", type="x")],
)
def test_what_is_no_result_is_not_taken_for_one(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        batch().read(line)


async def test_the_key_is_in_no_error_and_no_repr(tmp_path: Path) -> None:
    api, rows = batch(), rows_in(tmp_path, b"{}")
    said = refusal(KEY, f"bad key {KEY}")
    shown = [repr(api), repr(api.read(errored(KEY, KEY)))]
    for status in (200, 400, 401, 404, 429, 500):
        for ask in (
            api.create(rows, None, Script(reply(said, status))),
            api.status("b", Script(reply(said, status))),
            api.find(rows, (), Script(reply(said, status))),
        ):
            with pytest.raises(errors.ProviderError) as caught:
                await ask
            shown.append(f"{caught.value} {caught.value!r} {vars(caught.value)}")
    assert not [text for text in shown if "secret" in text]
