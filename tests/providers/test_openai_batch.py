"""OpenAI's batch API: replies as they were seen, and the simulator over HTTP."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import errors, transport
from llmflow.provider import BatchAPI, BatchInput, BatchStatus
from llmflow.simulator import Simulator, SimulatorSettings
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.transport import StreamChannel
from llmflow.types import Request
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.openai.openai_batch import OpenAIBatch
from llmflow_providers.sim import SimProvider
from tests.providers.batching import NOW, Script, reply, rows_in

BASE = "https://api.openai.com/v1"
KEY = "sk-secret-key-123456"
JOB: dict[str, Any] = {
    "id": "batch_1",
    "status": "in_progress",
    "input_file_id": "file-in",
    "output_file_id": None,
    "error_file_id": None,
    "errors": None,
    "created_at": 1_788_220_700,
    "expires_at": 1_788_307_100,
    "request_counts": {"total": 3, "completed": 1, "failed": 0},
    "metadata": {"llmflow": "tag-1"},
}


def batch(**options: Any) -> OpenAIBatch:
    api = OpenAIProvider(**{"model": "gpt-x", "api_key": KEY, **options}).batch
    assert api is not None
    return api


def row(name: str, **parts: object) -> bytes:
    return orjson.dumps({"id": "b", "custom_id": name, "response": None, "error": None, **parts})


def answered(name: str, status: int, body: object) -> bytes:
    return row(name, response={"status_code": status, "request_id": "req_1", "body": body})


COMPLETION = {
    "id": "chatcmpl-1",
    "model": "gpt-x-2026",
    "choices": [{"message": {"content": "hey"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 2},
}


def test_a_row_is_the_live_call_with_a_name() -> None:
    provider = OpenAIProvider("gpt-x", api_key=KEY)
    wire = provider.encode(Request(model="gpt-x", messages=({"role": "user", "content": "a\nb"},)))
    line = batch().line("r1-0", wire)
    assert b"\n" not in line
    assert orjson.loads(line) == {
        "custom_id": "r1-0",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": orjson.loads(wire.body),
    }


async def test_a_file_is_sent_as_a_form_of_the_announced_size(tmp_path: Path) -> None:
    channel = Script(reply({"id": "file-in"}))
    assert await batch().upload(rows_in(tmp_path, b'{"a":1}', b'{"b":2}'), channel) == "file-in"
    assert channel.asked == [("POST", f"{BASE}/files")]
    kind = channel.wires[0].headers["Content-Type"]
    boundary = kind.removeprefix("multipart/form-data; boundary=").encode()
    parts = channel.bodies[0].split(b"--" + boundary)
    assert b'name="purpose"\r\n\r\nbatch\r\n' in parts[1]
    assert b'name="file"; filename="tag-1.jsonl"' in parts[2]
    assert parts[2].partition(b"\r\n\r\n")[2] == b'{"a":1}\n{"b":2}\r\n'
    assert parts[3] == b"--\r\n"
    assert channel.wires[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_a_job_is_created_with_its_tag(tmp_path: Path) -> None:
    channel = Script(reply({**JOB, "status": "validating"}))
    status = await batch().create(rows_in(tmp_path, b"{}"), "file-in", channel)
    assert orjson.loads(channel.bodies[0]) == {
        "input_file_id": "file-in",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"llmflow": "tag-1"},
    }
    assert (status.id, status.state, status.tag) == ("batch_1", "queued", "tag-1")
    assert (status.uploaded, status.expires_at) == ("file-in", 1_788_307_100.0)


@pytest.mark.parametrize(
    ("native", "state"),
    [
        ("validating", "queued"),
        ("Validating", "queued"),
        ("in_progress", "running"),
        ("finalizing", "running"),
        ("cancelling", "cancelling"),
        ("completed", "succeeded"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("expired", "expired"),
        ("paused_for_lunch", "running"),
        (None, "running"),
    ],
)
async def test_every_state_has_its_meaning(native: str | None, state: str) -> None:
    status = await batch().status("batch_1", Script(reply({**JOB, "status": native})))
    assert status.state == state


async def test_azures_types_are_understood() -> None:
    job = {**JOB, "created_at": "2026-09-02T20:08:22Z", "request_counts": None, "metadata": None}
    status = await batch().status(
        "batch_1", Script(reply(job, retry_after="30", x_ratelimit_reset="900"))
    )
    assert (status.created_at, status.total, status.tag) == (1_788_379_702.0, None, None)
    assert status.retry_after == 30.0


async def test_a_completed_job_without_files_has_no_results(tmp_path: Path) -> None:
    api, channel = batch(), Script(reply({**JOB, "status": "completed", "output_file_id": ""}))
    status = await api.status("batch_1", channel)
    assert status.has_ended
    assert await api.fetch(status, tmp_path, channel) == []


@pytest.mark.parametrize("wrap", [lambda e: {"object": "list", "data": e}, lambda e: e])
async def test_a_failed_job_says_which_line_is_wrong(wrap: Any) -> None:
    found = [
        {"code": "duplicate_custom_id", "message": f"twice; key {KEY}", "param": None, "line": 4},
        {"code": "model_not_found", "message": "no such model", "line": None},
        {"code": "server_error", "message": "sorry"},
    ]
    job = {**JOB, "status": "failed", "errors": wrap(found)}
    status = await batch().status("batch_1", Script(reply(job)))
    assert [(type(e), line) for e, line in status.problems] == [
        (errors.InvalidRequestError, 4),
        (errors.ModelNotFoundError, None),
        (errors.ServerError, None),
    ]
    assert "secret" not in repr(status.problems)


QUEUE = [
    (
        "Enqueued token limit reached for gpt-x in org-1. Limit: 1,350,000 enqueued tokens. Wait.",
        1_350_000.0,
    ),
    (
        "The number of enqueued tokens has surpassed the configured limit of 30K for the X.",
        30_000.0,
    ),
    ("Enqueued token limit reached. Limit: 0 enqueued tokens.", None),
    (f"Enqueued token limit reached. Limit: {'9' * 400} enqueued tokens.", None),
    ("Enqueued token limit reached.", None),
]


@pytest.mark.parametrize(("text", "limit"), QUEUE)
@pytest.mark.parametrize("status", [400, 429, None])
async def test_a_full_queue_is_told_with_its_limit(
    text: str, limit: float | None, status: int | None, tmp_path: Path
) -> None:
    error = {"code": "token_limit_exceeded", "message": text}
    found: errors.ProviderError
    if status is None:
        failed = {**JOB, "status": "failed", "errors": {"data": [error]}}
        found = (await batch().status("batch_1", Script(reply(failed)))).problems[0].error
    else:
        channel = Script(reply({"error": error}, status))
        with pytest.raises(errors.QueueLimitError) as caught:
            await batch().create(rows_in(tmp_path, b"{}"), "f", channel)
        found = caught.value
    assert isinstance(found, errors.QueueLimitError)
    assert (found.limit, found.status, found.transient) == (limit, status, True)
    assert pickle.loads(pickle.dumps(found)).limit == limit


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_files_or_jobs_is_named(status: int, tmp_path: Path) -> None:
    api, rows = batch(base_url="http://localhost:9/v1"), rows_in(tmp_path, b"{}")
    with pytest.raises(errors.BatchUnsupportedError, match="localhost:9"):
        await api.upload(rows, Script(reply({"detail": "Not Found"}, status)))
    with pytest.raises(errors.BatchUnsupportedError, match="localhost:9"):
        await api.create(rows, "f", Script(reply(b"<html>", status)))


async def test_an_input_file_that_is_gone_is_no_missing_api(tmp_path: Path) -> None:
    gone = reply({"error": {"message": "No such File object: f"}}, 404)
    with pytest.raises(errors.InvalidRequestError) as caught:
        await batch().create(rows_in(tmp_path, b"{}"), "f", Script(gone))
    assert caught.value.status == 404


@pytest.mark.parametrize("url", ["https://api.deepseek.com", "https://api.mistral.ai/v1"])
def test_a_provider_that_has_no_such_api_offers_none(url: str) -> None:
    assert OpenAIProvider("m", base_url=url, api_key="k").batch is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", {"id": None}, {"id": 7}])
async def test_a_creation_with_an_unreadable_reply_is_not_known_to_have_failed(
    body: object, tmp_path: Path
) -> None:
    with pytest.raises(errors.BadReplyError) as caught:
        await batch().create(rows_in(tmp_path, b"{}"), "f", Script(reply(body)))
    assert (caught.value.status, caught.value.transient) == (200, True)


async def test_an_unknown_job_is_a_404_and_about_no_model() -> None:
    channel = Script(reply({"error": {"message": "No batch found with id 'b'."}}, 404))
    with pytest.raises(errors.InvalidRequestError) as caught:
        await batch().status("b/../x", channel)
    assert (caught.value.status, caught.value.fatal) == (404, False)
    assert channel.asked == [("GET", f"{BASE}/batches/b%2F..%2Fx")]


def listed(name: str, age: float, tag: str | None) -> dict[str, Any]:
    metadata = None if tag is None else {"llmflow": tag}
    return {**JOB, "id": name, "created_at": NOW - age, "metadata": metadata}


async def test_a_job_is_found_by_its_tag_on_a_later_page(tmp_path: Path) -> None:
    first = {"data": [listed("b9", 0, None), listed("b8", 1, "tag-2")], "has_more": True}
    second = {"data": [listed("b7", 2, "tag-1")], "has_more": True}
    channel = Script(reply(first), reply(second))
    found = await batch().find(rows_in(tmp_path, b"{}"), (), channel)
    assert found is not None
    assert found.id == "b7"
    assert [url for _, url in channel.asked] == [
        f"{BASE}/batches?limit=100",
        f"{BASE}/batches?limit=100&after=b8",
    ]


async def test_a_search_ends_at_what_is_older_than_the_file(tmp_path: Path) -> None:
    page = {"data": [listed("b9", 590, "x"), listed("b8", 610, "y")], "has_more": True}
    assert await batch().find(rows_in(tmp_path, b"{}"), (), Script(reply(page))) is None


async def test_a_search_ends_where_a_list_turns_in_circles(tmp_path: Path) -> None:
    page = reply({"data": [listed("b9", 0, "x")], "has_more": True})
    channel = Script(*[page] * 9)
    assert await batch().find(rows_in(tmp_path, b"{}"), (), channel) is None
    assert len(channel.asked) == 2


async def test_groqs_pages_are_followed_and_known_jobs_left_out(tmp_path: Path) -> None:
    first = {"data": [listed("b9", 0, "tag-1")], "paging": {"next_cursor": "c/1"}}
    channel = Script(reply(first), reply({"data": None, "paging": {}}))
    assert await batch().find(rows_in(tmp_path, b"{}"), {"b9"}, channel) is None
    assert channel.asked[1][1] == f"{BASE}/batches?limit=100&cursor=c%2F1"


@pytest.mark.parametrize("state", ["completed", "finalizing", "cancelling"])
async def test_an_end_that_comes_anyway_is_no_error(state: str) -> None:
    refusal = reply({"error": {"message": "Cannot cancel"}}, 409)
    await batch().cancel("batch_1", Script(refusal, reply({**JOB, "status": state})))
    with pytest.raises(errors.ConflictError):
        await batch().cancel("batch_1", Script(refusal, reply(JOB)))


async def test_results_take_the_same_places_each_time_and_may_be_empty(tmp_path: Path) -> None:
    job = {**JOB, "status": "completed", "output_file_id": "file-o", "error_file_id": "../e"}
    api, folder = batch(), tmp_path / "results"
    channel = Script(reply(job), *[reply(b"row\n"), reply(b"")] * 2)
    status = await api.status("batch_1", channel)
    once = await api.fetch(status, folder, channel)
    assert list(once) == list(await api.fetch(status, folder, channel))
    assert [path.read_bytes() for path in once] == [b"row\n", b""]
    assert {path.parent for path in once} == {folder}
    assert channel.asked[2] == ("GET", f"{BASE}/files/..%2Fe/content")


async def test_all_files_are_deleted_and_those_that_are_gone_do_not_matter() -> None:
    status = BatchStatus(id="b", state="succeeded", uploaded="i", results=("o", "e"))
    channel = Script(reply({}, 404), reply({"deleted": True}), reply({}, 404))
    await batch().clean_up(status, channel)
    assert channel.asked == [("DELETE", f"{BASE}/files/{name}") for name in ("i", "o", "e")]
    broken = Script(reply({}, 500), reply({}), reply({}))
    with pytest.raises(errors.ServerError):
        await batch().clean_up(status, broken)
    assert broken.left == []


def test_an_answer_is_read_as_a_live_one() -> None:
    name, response, error = batch().read(answered("r-1", 200, COMPLETION))
    assert (name, error) == ("r-1", None)
    assert response is not None
    assert (response.text, response.usage.total_tokens) == ("hey", 10)
    assert (response.request_id, response.model) == ("req_1", "gpt-x-2026")


LIMITED = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
CONTEXT = {"error": {"message": "too long", "code": "context_length_exceeded"}}
MISTRAL = orjson.dumps({"message": "bad temperature", "code": "1500"}).decode()
EXPIRED = {"code": "batch_expired", "message": "not executed"}
CANCELLED = {"code": "batch_cancelled", "message": "not executed"}
FILTERED = {"choices": [{"finish_reason": "error", "message": {"content": ""}}]}


@pytest.mark.parametrize(
    ("line", "kind", "status"),
    [
        (answered("r", 429, LIMITED), errors.RateLimitError, 429),
        (answered("r", 500, {"error": {"message": "x"}}), errors.ServerError, 500),
        (answered("r", 400, CONTEXT), errors.ContextLengthError, 400),
        (answered("r", 400, MISTRAL), errors.InvalidRequestError, 400),
        (answered("r", 400, "<html>"), errors.InvalidRequestError, 400),
        (answered("r", 200, {"object": "error", "code": 503}), errors.OverloadedError, 503),
        (answered("r", 200, {}), errors.BadReplyError, 200),
        (answered("r", 200, None), errors.BadReplyError, 200),
        (answered("r", 200, {"choices": []}), errors.BadReplyError, 200),
        (answered("r", 200, FILTERED), errors.ServerError, 200),
        (row("r", error=EXPIRED), errors.BatchRowLostError, None),
        (row("r", error=CANCELLED), errors.BatchRowLostError, None),
        (row("r", error={"message": "x"}), errors.ServerError, 500),
        (row("r", error={"type": "invalid_request_error"}), errors.InvalidRequestError, 400),
        (row("r", error="no", response={"status_code": 400}), errors.InvalidRequestError, 400),
    ],
)
def test_what_failed_has_the_class_of_a_live_failure(
    line: bytes, kind: type[errors.ProviderError], status: int | None
) -> None:
    name, response, error = batch().read(line)
    assert (name, response) == ("r", None)
    assert error is not None
    assert (type(error), error.status) == (kind, status)


@pytest.mark.parametrize(
    ("given", "code"), [("batch_expired", "expired"), ("batch_cancelled", "cancelled")]
)
def test_a_row_that_was_never_run_says_why(given: str, code: str) -> None:
    error = batch().read(row("r", error={"code": given})).error
    assert error is not None
    assert (error.code, error.transient) == (code, True)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b'{"custom_id":"r","resp',
        b"[]",
        b"7",
        b"{}",
        row("r"),
        orjson.dumps({"custom_id": 7, "error": {}}),
        orjson.dumps({"response": {}}),
    ],
)
def test_what_is_no_result_is_not_taken_for_one(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        batch().read(line)


async def test_the_key_is_in_no_error_and_no_repr(tmp_path: Path) -> None:
    api, rows = batch(), rows_in(tmp_path, b"{}")
    shown = [repr(api)]
    said = {"error": {"message": f"bad key {KEY}", "code": KEY}}
    for status in (200, 400, 401, 404, 429, 500):
        for ask in (
            api.upload(rows, Script(reply(said, status))),
            api.create(rows, "f", Script(reply(said, status))),
            api.status("b", Script(reply(said, status))),
        ):
            with pytest.raises(errors.ProviderError) as caught:
                await ask
            shown.append(f"{caught.value} {caught.value!r} {vars(caught.value)}")
        shown.append(repr(api.read(answered("r", status, said))))
    shown.append(repr(api.read(row("r", error=said["error"]))))
    assert not [text for text in shown if "secret" in text]


# --- against the simulator, over HTTP


def input_of(folder: Path, api: BatchAPI, provider: OpenAIProvider, count: int) -> BatchInput:
    lines = []
    for number in range(count):
        message = {"role": "user", "content": f"Item {number}.\nSecond line."}
        wire = provider.encode(Request(model=provider.model, messages=(message,)))
        lines.append(api.line(f"r{number}-0", wire))
    return rows_in(folder, *lines)


async def run(api: BatchAPI, rows: BatchInput, channel: StreamChannel) -> BatchStatus:
    return await until_ended(
        api, await api.create(rows, await api.upload(rows, channel), channel), channel
    )


async def until_ended(api: BatchAPI, status: BatchStatus, channel: StreamChannel) -> BatchStatus:
    async with asyncio.timeout(20):
        while not status.has_ended:
            await asyncio.sleep(0.01)
            status = await api.status(status.id, channel)
    return status


def fast(**batch: Any) -> SimulatorSettings:
    none = ("seconds", "validation_seconds", "finalizing_seconds", "cancel_seconds")
    settings = BatchSettings(**{**dict.fromkeys(none, 0.0), **batch})
    return SimulatorSettings(latency=0, batch=settings)


async def test_300_rows_go_through_the_simulator(tmp_path: Path) -> None:
    settings = fast(error_rows=0.1, expired_rows=0.1, missing_rows=0.1, duplicate_rows=0.1)
    channel = StreamChannel()
    async with Simulator(settings) as sim:
        provider = OpenAIProvider("gpt-x", base_url=sim.url, api_key="sk-right")
        api = provider.batch
        assert isinstance(api, BatchAPI)
        rows = input_of(tmp_path, api, provider, 300)
        status = await run(api, rows, channel)
        assert (status.state, status.total, status.tag) == ("expired", 300, "tag-1")
        found = await api.find(rows, (), channel)
        assert found is not None
        assert found.id == status.id
        assert await api.find(rows, {status.id}, channel) is None
        paths = await api.fetch(status, tmp_path / "results", channel)
        got = [api.read(line) for path in paths for line in path.read_bytes().splitlines()]
        await api.clean_up(status, channel)
        with pytest.raises(errors.InvalidRequestError):
            await api.fetch(status, tmp_path / "again", channel)
        await transport.aclose()
    texts = {name: response.text for name, response, _ in got if response is not None}
    kinds = [type(error) for _, _, error in got if error is not None]
    lost = kinds.count(errors.BatchRowLostError)
    failed = kinds.count(errors.ServerError)
    assert len(kinds) == lost + failed
    assert lost > 0
    assert failed > 0
    names = {name for name, _, _ in got}
    assert len(names) == len(texts) + lost + failed < 300
    assert len(got) > len(names)
    assert all(texts.values())


async def test_a_bad_row_a_full_queue_and_a_cancelled_job_in_the_simulator(tmp_path: Path) -> None:
    channel = StreamChannel()
    async with Simulator(fast(queue_tokens=100, stuck_jobs=(3,))) as sim:
        provider = OpenAIProvider("gpt-x", base_url=sim.url, api_key="sk-right")
        api = provider.batch
        assert api is not None
        rows = rows_in(tmp_path, api.line("r0-0", provider.encode(REQUEST)), b"{broken", tag="a")
        bad = await run(api, rows, channel)
        assert [(p.line, p.error.code) for p in bad.problems] == [(2, "invalid_json_line")]
        full = await run(api, input_of(tmp_path, api, provider, 200), channel)
        error = full.problems[0].error
        assert isinstance(error, errors.QueueLimitError)
        assert error.limit == 100
        rows = input_of(tmp_path, api, provider, 2)
        status = await api.create(rows, await api.upload(rows, channel), channel)
        await api.cancel(status.id, channel)
        status = await until_ended(api, status, channel)
        assert status.state == "cancelled"
        await api.cancel(status.id, channel)
        await transport.aclose()


REQUEST = Request(model="gpt-x", messages=({"role": "user", "content": "Hi."},))


@pytest.mark.http
async def test_the_built_in_simulator_takes_jobs(tmp_path: Path) -> None:
    provider, channel = SimProvider("m"), StreamChannel()
    provider.prepare()
    api = provider.batch
    assert api is not None
    rows = input_of(tmp_path, api, provider, 3)
    status = await api.create(rows, await api.upload(rows, channel), channel)
    await api.cancel(status.id, channel)
    found = await api.find(rows, (), channel)
    await transport.aclose()
    assert found is not None
    assert found.id == status.id
    assert found.state in {"cancelling", "cancelled"}


def test_the_simulators_provider_has_the_same_api_wherever_it_is() -> None:
    provider = SimProvider("m", base_url="http://127.0.0.1:7/v1")
    api = provider.batch
    assert isinstance(api, BatchAPI)
    provider.base_url = "http://127.0.0.1:8/v1"  # as when the built-in server has started
    assert "127.0.0.1:8" in repr(api)
