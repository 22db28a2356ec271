"""How the simulator's batch jobs go, on a turned clock: their speed, their ends, their limits."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import orjson
import pytest

from llmflow.simulator import Simulator, SimulatorSettings
from llmflow.simulator.batches import service
from llmflow.simulator.batches.api import BatchReply
from tests.simulator.batch_provider import START, Anthropic, Counts, Dialect, OpenAI, Provider

AT_ONCE: dict[str, Any] = {
    "seconds": 0.0,
    "validation_seconds": 0.0,
    "finalizing_seconds": 0.0,
    "cancel_seconds": 0.0,
}
MESSAGES = "/v1/messages/batches"
both = pytest.mark.parametrize("dialect", [OpenAI, Anthropic])


def provider(**batch: Any) -> Provider:
    """Return a provider whose jobs take ten seconds, and nothing else does."""
    return Provider(**{**AT_ONCE, "seconds": 10.0, "moving_counts": True, **batch})


# --- speed


@both
@pytest.mark.parametrize("speed", [{"seconds": 5.0}, {"seconds": 9.0, "rows_per_second": 2.0}])
def test_rows_become_done_at_the_set_speed(dialect: Dialect, speed: dict[str, float]) -> None:
    with provider(**speed) as sim:
        jobs = dialect(sim)
        job = jobs.create(10)
        for moment, done in ((0.4, 0), (0.5, 1), (1.2, 2), (2.5, 5), (4.9, 9)):
            sim.until(moment)
            assert jobs.counted(job) == Counts(10 - done, done, 0), moment
            assert jobs.status(job) == "in_progress"
            assert sim.counts().rows_billed == done
        sim.until(5.0)
        assert jobs.counted(job) == Counts(0, 10, 0)
        assert jobs.status(job) in ("completed", "ended")


@both
@pytest.mark.parametrize("speed", [{"seconds": 10.0}, {"rows_per_second": 1.0}])
def test_a_slow_job_takes_its_factor_longer(dialect: Dialect, speed: dict[str, float]) -> None:
    with provider(**speed, slow_jobs=(2,), slow_factor=4.0) as sim:
        jobs = dialect(sim)
        usual, slow = jobs.create(10), jobs.create(10)
        sim.until(20.0)
        assert jobs.status(usual) in ("completed", "ended")
        assert (jobs.status(slow), jobs.counted(slow)) == ("in_progress", Counts(5, 5, 0))
        sim.until(39.9)
        assert jobs.status(slow) == "in_progress"
        sim.until(40.0)
        assert jobs.counted(slow) == Counts(0, 10, 0)


@both
def test_nobody_need_look_at_a_job_for_it_to_go_on(dialect: Dialect) -> None:
    ends = []
    for watched in (True, False):
        with provider(expiry_seconds=4.5) as sim:
            jobs = dialect(sim)
            job = jobs.create(10)
            sim.until(0.1)
            if watched:
                sim.until(100.0)
            else:
                sim.jump(100.0)
            ends.append((jobs.status(job), jobs.counted(job), jobs.results(job)))
    assert ends[0] == ends[1]
    assert ends[0][1] == Counts(0, 4, 6)


def test_a_job_is_validated_and_finalized_for_its_time() -> None:
    with provider(validation_seconds=3.0, finalizing_seconds=2.0) as sim:
        jobs = OpenAI(sim)
        job = jobs.create(10)
        sim.until(2.9)
        assert (jobs.status(job), jobs.job(job)["request_counts"]["total"]) == ("validating", 0)
        sim.until(3.0)
        assert (jobs.status(job), jobs.counted(job)) == ("in_progress", Counts(10, 0, 0))
        sim.until(13.0)
        assert (jobs.status(job), jobs.job(job)["output_file_id"]) == ("finalizing", None)
        assert jobs.cancel(job).status == 409
        sim.until(15.0)
        assert jobs.status(job) == "completed"


def test_counts_stand_until_the_end_by_anthropics_rule() -> None:
    with provider(moving_counts=False) as sim:
        jobs = Anthropic(sim)
        job = jobs.create(10)
        sim.until(9.9)
        assert (sim.counts().rows_billed, jobs.counted(job)) == (9, Counts(10, 0, 0))
        sim.until(10.0)
        assert jobs.counted(job) == Counts(0, 10, 0)


# --- expiry


@both
@pytest.mark.parametrize(
    "trouble",
    [
        {"slow_jobs": (1,), "slow_factor": 2.0},
        {"seconds": 1.0, "stuck_jobs": (1,), "stuck_at": 0.4},
    ],
)
def test_a_job_that_expires_keeps_what_it_did(dialect: Dialect, trouble: dict[str, Any]) -> None:
    with provider(expiry_seconds=8.0, **trouble) as sim:
        jobs = dialect(sim)
        job = jobs.create(10)
        sim.until(7.9)
        assert jobs.status(job) == "in_progress"
        sim.until(8.0)
        assert jobs.status(job) in ("expired", "ended")
        assert jobs.counted(job) == Counts(0, 4, 6)
        assert Counter(jobs.results(job).values()) == {"succeeded": 4, "expired": 6}
        assert sim.counts().rows_billed == 4


@both
def test_an_expired_job_can_lose_all_its_results_though_they_are_billed(dialect: Dialect) -> None:
    with provider(expiry_seconds=4.0, expired_results="none") as sim:
        jobs = dialect(sim)
        job = jobs.create(10)
        sim.until(4.0)
        assert jobs.counted(job) == Counts(0, 0, 10)
        assert Counter(jobs.results(job).values()) == {"expired": 10}
        assert sim.counts().rows_billed == 4


def test_an_expired_job_tells_its_times_and_what_it_used() -> None:
    with provider(expiry_seconds=4.0) as sim:
        jobs = OpenAI(sim)
        ident = jobs.create(10)
        sim.until(4.0)
        job = jobs.job(ident)
        assert job["expired_at"] == job["expires_at"] == job["created_at"] + 4
        assert job["completed_at"] is job["cancelled_at"] is job["failed_at"] is None
        used = [line["response"]["body"]["usage"] for line in jobs.content(job["output_file_id"])]
        assert job["usage"]["total_tokens"] == sum(use["total_tokens"] for use in used) > 0
        assert sim.counts().input_tokens == job["usage"]["input_tokens"]


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_a_job_that_expires_before_it_begins_does_nothing(seconds: float) -> None:
    with provider(seconds=seconds, validation_seconds=5.0, expiry_seconds=4.0) as sim:
        jobs = OpenAI(sim)
        job = jobs.create(10)
        sim.until(20.0)
        assert (jobs.status(job), jobs.counted(job)) == ("expired", Counts(0, 0, 10))
        assert sim.counts().rows_billed == 0


# --- cancellation


def test_a_job_cancelled_during_validation_has_counted_and_billed_nothing() -> None:
    with provider(validation_seconds=5.0, cancel_seconds=2.0) as sim:
        jobs = OpenAI(sim)
        ident = jobs.create(10)
        sim.until(1.0)
        assert jobs.cancel(ident).data["status"] == "cancelling"
        sim.until(2.9)
        assert jobs.status(ident) == "cancelling"
        sim.until(3.0)
        job = jobs.job(ident)
        assert (job["status"], job["in_progress_at"]) == ("cancelled", None)
        assert job["cancelled_at"] == job["cancelling_at"] + 2
        assert job["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert (job["output_file_id"], job["error_file_id"]) == (None, None)
        assert sim.counts().rows_billed == job["usage"]["total_tokens"] == 0


def test_a_bad_line_does_not_fail_a_job_that_was_cancelled_before() -> None:
    with provider(validation_seconds=5.0) as sim:
        jobs = OpenAI(sim)
        job = jobs.create(2, stream=True)
        sim.until(1.0)
        jobs.cancel(job)
        sim.until(6.0)
        assert (jobs.status(job), jobs.job(job)["errors"]) == ("cancelled", None)


@both
def test_a_cancelled_job_keeps_what_it_did_and_begins_no_more_rows(dialect: Dialect) -> None:
    with provider(cancel_seconds=3.0) as sim:
        jobs = dialect(sim)
        job = jobs.create(10)
        sim.until(4.0)
        assert jobs.cancel(job).status == 200
        sim.until(6.9)
        assert jobs.status(job) in ("cancelling", "canceling")
        assert jobs.counted(job) == Counts(6, 4, 0)
        assert jobs.cancel(job).status == 200
        sim.until(7.0)
        assert jobs.status(job) in ("cancelled", "ended")
        assert jobs.counted(job) == Counts(0, 4, 6)
        assert Counter(jobs.results(job).values()) == {"succeeded": 4, "cancelled": 6}
        assert sim.counts().rows_billed == 4
        assert jobs.cancel(job).status in (400, 409)


@both
def test_only_openais_cancelled_job_can_lose_its_results(dialect: Dialect) -> None:
    with provider(cancelled_results="drop") as sim:
        jobs = dialect(sim)
        job = jobs.create(10)
        sim.until(4.0)
        jobs.cancel(job)
        sim.until(4.1)
        kept = 4 if dialect is Anthropic else 0
        assert jobs.counted(job) == Counts(0, kept, 10 - kept)
        assert Counter(jobs.results(job).values())["succeeded"] == kept
        assert sim.counts().rows_billed == 4


@both
def test_a_cancellation_takes_no_longer_than_the_job_may(dialect: Dialect) -> None:
    with provider(cancel_seconds=600.0, expiry_seconds=8.0) as sim:
        jobs = dialect(sim)
        job = jobs.create(10)
        sim.until(4.0)
        jobs.cancel(job)
        sim.until(8.0)
        assert Counter(jobs.results(job).values()) == {"succeeded": 4, "cancelled": 6}


# --- limits


def test_a_file_may_have_the_most_rows_and_not_one_more() -> None:
    with provider(max_requests=4, seconds=0.0) as sim:
        jobs = OpenAI(sim)
        right, wrong = jobs.create(4), jobs.create(5)
        sim.until(1.0)
        assert (jobs.status(right), jobs.status(wrong)) == ("completed", "failed")
        (error,) = jobs.job(wrong)["errors"]["data"]
        assert (error["code"], error["line"]) == ("too_many_tasks", 5)
        assert sim.counts().rows_billed == 4


def test_a_file_may_have_the_most_bytes_and_not_one_more() -> None:
    size = len(orjson.dumps(OpenAI.row(0))) + 1
    for most, status in ((size, 200), (size - 1, 400)):
        with provider(max_bytes=most) as sim:
            answer = OpenAI(sim).try_create(1)
            assert answer.status == status
            assert sim.counts().jobs_created == (status == 200)
    assert f"larger than the {size - 1} maximum" in answer.data["error"]["message"]


def test_a_list_may_have_the_most_bytes_and_not_one_more() -> None:
    size = len(Anthropic.body(3))
    for most, status in ((size, 200), (size - 1, 413)):
        with provider(max_bytes=most) as sim:
            answer = Anthropic(sim).try_create(3)
            assert answer.status == status
            assert sim.counts().jobs_created == (status == 200)
    assert answer.data["error"]["type"] == "request_too_large"


def test_a_list_may_have_the_most_rows_and_not_one_more() -> None:
    with provider(max_requests=4) as sim:
        jobs = Anthropic(sim)
        assert (jobs.try_create(4).status, jobs.try_create(5).status) == (200, 400)


def test_enqueued_tokens_count_by_key_and_model_until_their_job_ends() -> None:
    with provider(queue_tokens=50) as sim:
        jobs = OpenAI(sim)
        first, full = jobs.create(5), jobs.create(5)
        other_model, other_key = jobs.create(5, model="model-y"), jobs.create(5, key="sk-other")
        sim.until(1.0)
        states = [jobs.status(job) for job in (first, full, other_model)]
        assert states == ["in_progress", "failed", "in_progress"]
        assert sim.batches.store.jobs[other_key].phase == "running"
        (error,) = jobs.job(full)["errors"]["data"]
        assert error["code"] == "token_limit_exceeded"
        assert "Limit: 50 enqueued tokens" in error["message"]
        assert jobs.job(full)["request_counts"]["total"] == 0
        sim.until(10.0)
        after = jobs.create(5)
        sim.until(11.0)
        assert jobs.status(after) == "in_progress"


def test_a_job_larger_than_the_queue_never_begins() -> None:
    with provider(queue_tokens=5) as sim:
        jobs = OpenAI(sim)
        job = jobs.create(5)
        sim.until(1.0)
        assert jobs.job(job)["errors"]["data"][0]["code"] == "token_limit_exceeded"


def test_queued_rows_count_by_key_until_their_job_ends() -> None:
    with provider(queue_requests=10) as sim:
        jobs = Anthropic(sim)
        assert [jobs.try_create(n).status for n in (6, 4, 1)] == [200, 200, 429]
        refused = jobs.try_create(1)
        assert refused.data["error"]["type"] == "rate_limit_error"
        assert jobs.try_create(10, key="sk-other").status == 200
        assert sim.counts().jobs_created == len(jobs.jobs()) + 1 == 3
        sim.until(10.0)
        assert jobs.try_create(10).status == 200


# --- trouble


@both
def test_only_questions_for_a_job_fail(dialect: Dialect) -> None:
    with provider(failed_polls=1.0) as sim:
        jobs = dialect(sim)
        job = jobs.create(2)
        path = sim.ask("GET", f"/v1/batches/{job}" if dialect is OpenAI else f"{MESSAGES}/{job}")
        assert path.status == 500
        assert jobs.jobs() == [job]
        assert jobs.cancel(job).status == 200


def test_a_new_job_is_hidden_for_so_many_questions() -> None:
    with provider(hidden_polls=2) as sim:
        job = Anthropic(sim).create(2)
        asked = [sim.ask("GET", f"{MESSAGES}/{job}").status for _ in range(3)]
        assert asked == [404, 404, 200]
        assert sim.ask("GET", f"{MESSAGES}/msgbatch_other").status == 404


def test_a_lost_upload_is_there_all_the_same() -> None:
    with provider(lost_uploads=(2,)) as sim:
        uploads = [sim.upload(OpenAI(sim).row(n)) for n in range(3)]
        assert [answer.lost for answer in uploads] == [False, True, False]
        listed = sim.ask("GET", "/v1/files").data["data"]
        assert len(listed) == sim.counts().files_uploaded == 3


def test_a_request_that_the_disk_fails_is_answered_and_the_others_go_on() -> None:
    with provider() as sim:
        jobs = Anthropic(sim)
        job = jobs.create(10)
        data = sim.batches.store.folder / "data"
        aside = data.rename(data.with_name("aside"))
        refused = sim.ask("POST", MESSAGES, later=lambda _: None)
        aside.rename(data)
        assert (refused.status, refused.data["error"]["type"]) == (500, "api_error")
        sim.until(10.0)
        assert jobs.counted(job) == Counts(0, 10, 0)


# --- creations of many megabytes


def test_a_large_list_is_taken_in_steps_between_which_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "_TURN_SECONDS", -1.0)
    answers: list[BatchReply] = []
    with provider(seconds=0.0) as sim:
        jobs = Anthropic(sim)
        small = jobs.create(3)
        body = jobs.body(8, system="x" * 40_000)
        sim.ask("POST", MESSAGES, body, upload=True, later=answers.append)
        turns = 0
        while not answers:
            assert jobs.jobs() == [small]
            assert sim.batches.advance(START) is not None
            turns += 1
        assert turns > 3
        created = orjson.loads(answers[0].body)["id"]
        assert jobs.jobs() == [created, small]
        sim.until(1.0)
        assert jobs.counted(created) == Counts(0, 8, 0)
        assert not list(sim.batches.store.folder.glob("data/arriving-*"))


def test_a_wrong_row_late_in_a_large_list_refuses_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "_TURN_SECONDS", -1.0)
    with provider() as sim:
        jobs = Anthropic(sim)
        rows = [jobs.row(n, system="x" * 40_000) for n in (*range(8), 0)]
        answer = sim.ask("POST", MESSAGES, orjson.dumps({"requests": rows}), upload=True)
        assert (answer.status, jobs.jobs(), sim.counts().jobs_created) == (400, [], 0)
        assert "requests.8.custom_id" in answer.data["error"]["message"]
        assert not list(sim.batches.store.folder.glob("data/*"))


def test_a_simulator_can_end_while_it_takes_a_large_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "_TURN_SECONDS", -1.0)
    answers: list[BatchReply] = []
    with provider() as sim:
        body = Anthropic(sim).body(8, system="x" * 40_000)
        sim.ask("POST", MESSAGES, body, upload=True, later=answers.append)
    gc.collect()  # a file that was left open would warn here
    assert not answers


@both
def test_others_are_served_between_the_large_rows_of_a_job(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_TURN_SECONDS", -1.0)
    with provider(seconds=0.0) as sim:
        jobs = dialect(sim)
        job = jobs.create(12, user="x" * 300_000)
        turns = 0
        while sim.batches.advance(START + 1.0) is not None:
            turns += 1
        assert turns >= (6 if dialect is OpenAI else 3)
        assert jobs.status(job) in ("completed", "ended")


async def test_live_requests_are_answered_while_a_large_list_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    httpx: Any = pytest.importorskip("httpx")
    monkeypatch.setattr(service, "_TURN_SECONDS", -1.0)
    body, asked = Anthropic.body(100, system="x" * 40_000), Anthropic.row(1)["params"]
    headers = {"x-api-key": "sk-right", "anthropic-version": "2023-06-01"}
    web = httpx.AsyncClient(headers=headers)
    async with Simulator(SimulatorSettings(latency=0)) as sim, web:
        creation = asyncio.ensure_future(web.post(sim.root_url + MESSAGES, content=body))
        answered = 0
        while not creation.done():
            live = await web.post(f"{sim.url}/messages", json=asked)
            assert live.status_code == 200
            taken = sim._batches is not None and bool(sim._batches._works)
            answered += taken
        assert answered > 1
        assert (await creation).json()["request_counts"]["processing"] == 100
