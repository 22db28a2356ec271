"""Who is told of what, and what a hook cannot break."""

from __future__ import annotations

import logging
import pickle
import threading
import timeit
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields

import pytest

from llmflow import events
from llmflow.errors import RateLimitError, ServerError, UsageError
from llmflow.events import (
    KINDS,
    BatchDecided,
    BatchJobChanged,
    BudgetReached,
    DomainPaused,
    Event,
    RequestAdmitted,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestHedged,
    RequestRejected,
    RequestRetried,
    RequestStarted,
    RunFinished,
    RunStarted,
    emit,
    listening,
    subscribe,
)
from llmflow.types import Request, Response, Usage

CALL = {"at": 1.0, "run_id": "r", "call_id": 1, "provider": "openai", "model": "gpt"}
RESPONSE = Response(
    text="a secret", usage=Usage(), finish_reason="stop", model="gpt-1", provider="openai"
)
REQUEST = Request(model="gpt", messages=({"role": "user", "content": "a secret"},))
EXAMPLES: list[Event] = [
    RequestStarted(**CALL, request=REQUEST),
    RequestAdmitted(**CALL, attempt=2, waited=0.5),
    RequestRejected(**CALL, seconds=1.5, retry_after=1.0, dimension="tpm"),
    RequestRetried(**CALL, attempt=1, error=ServerError("broken", status=500), delay=0.5),
    RequestHedged(**CALL, seconds=3.0),
    RequestFinished(
        **CALL, seconds=2.0, usage=Usage(input_tokens=3, output_tokens=4), response=RESPONSE
    ),
    RequestFailed(**CALL, seconds=2.0, error=RateLimitError("no"), attempts=3),
    RequestCancelled(**CALL, seconds=2.0),
    DomainPaused(at=1.0, provider="openai", model="gpt", seconds=2.0, reason="slow down"),
    BudgetReached(at=1.0, run_id="r", dimension="usd", spent=4.99, limit=5.0),
    RunStarted(at=1.0, run_id="r"),
    BatchJobChanged(
        at=1.0, run_id="r", provider="sim", model="m", job="batch_1", state="created", rows=3
    ),
    BatchDecided(at=1.0, run_id="r", provider="sim", model="m", decision="next round", rows=2),
    RunFinished(at=1.0, run_id="r", seconds=60.0, state="done"),
]


@pytest.fixture(autouse=True)
def nobody_is_left_listening() -> Iterator[None]:
    assert not listening()
    yield
    assert not listening()


def started(run_id: str | None = None) -> RunStarted:
    return RunStarted(at=0.0, run_id=run_id)


def test_there_is_an_example_of_every_kind() -> None:
    assert {type(each) for each in EXAMPLES} == set(KINDS)
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    assert {getattr(events, name) for name in events.__all__ if name[0].isupper()} >= set(KINDS)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda each: each.kind)
def test_an_event_is_frozen_and_says_no_text_anywhere_but_in_its_object(event: Event) -> None:
    with pytest.raises(FrozenInstanceError):
        event.at = 2.0  # type: ignore[misc]
    assert "secret" not in repr(event)
    assert "secret" not in str(event.facts())
    assert b"secret" not in pickle.dumps(event)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda each: each.kind)
def test_an_event_comes_out_of_a_pickle_as_it_went_in(event: Event) -> None:
    again = pickle.loads(pickle.dumps(event))
    assert type(again) is type(event)
    assert again.facts() == event.facts()
    assert again.at == event.at
    if not any(each.name == "error" for each in fields(event)):  # errors are equal to themselves
        assert again == event


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda each: each.kind)
def test_facts_do_not_collide_with_a_log_records_own(event: Event) -> None:
    own = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
    structlogs_own = {"event", "level", "logger", "timestamp"}
    assert not set(event.facts()) & (own | structlogs_own)


def test_what_a_server_wrote_is_made_fit_for_a_log() -> None:
    event = RequestFinished(
        **CALL, seconds=1.0, usage=Usage(), finish_reason="stop\x1b[31m\nERROR", request_id="a\nb"
    )
    assert event.facts()["finish_reason"] == "stop[31m ERROR"
    assert event.facts()["request_id"] == "a b"
    failed = RequestFailed(**CALL, seconds=1.0, error=ValueError("key sk-abcdef123456"))
    assert failed.facts()["reason"] == "key ***"


def test_a_hook_hears_what_is_emitted_until_it_is_closed() -> None:
    heard: list[Event] = []
    subscription = subscribe(heard.append)
    emit(started())
    subscription()
    emit(started())
    subscription.close()
    assert heard == [started()]


def test_kinds_narrow_what_is_heard_and_what_is_wanted() -> None:
    heard: list[Event] = []
    with subscribe(heard.append, kinds=[RunStarted, BudgetReached]):
        assert RunStarted.wanted
        assert not RequestStarted.wanted
        for each in EXAMPLES:
            emit(each)
    assert {type(each) for each in heard} == {RunStarted, BudgetReached}


def test_a_base_class_stands_for_all_of_its_kinds() -> None:
    heard: list[Event] = []
    with subscribe(heard.append, kinds=RequestEvent):
        for each in EXAMPLES:
            emit(each)
    assert heard == [each for each in EXAMPLES if isinstance(each, RequestEvent)]


def test_a_hook_of_one_run_hears_nothing_of_others() -> None:
    heard: list[Event] = []
    with subscribe(heard.append, run_id="mine"):
        for run_id in (None, "other", "mine"):
            emit(started(run_id))
    assert heard == [started("mine")]


def test_no_kind_is_wanted_where_nobody_listens() -> None:
    with subscribe(print):
        assert all(kind.wanted for kind in KINDS)
    assert not any(kind.wanted for kind in KINDS)


def test_a_hook_that_fails_is_logged_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    with subscribe(broken), subscribe(heard.append):
        emit(started())
        emit(started())
    assert len(heard) == 2
    (record,) = caplog.records
    assert "broken" in record.getMessage()
    assert record.exc_info is not None


def test_a_hook_that_fails_again_after_it_was_subscribed_again_is_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with subscribe(broken):
            emit(started())
    assert len(caplog.records) == 2


def test_a_hook_may_close_itself_and_open_another() -> None:
    heard: list[Event] = []

    def first(event: Event) -> None:
        subscription.close()
        later.append(subscribe(heard.append))

    later: list[events.Subscription] = []
    subscription = subscribe(first)
    emit(started("one"))
    emit(started("two"))
    later[0].close()
    assert heard == [started("two")]


async def _hook(event: Event) -> None:
    raise AssertionError


class _Hook:
    async def __call__(self, event: Event) -> None:
        raise AssertionError


@pytest.mark.parametrize("hook", [_hook, _Hook()])
def test_a_coroutine_function_is_refused(hook: events.Hook) -> None:
    with pytest.raises(UsageError, match="coroutine function"):
        subscribe(hook)


def test_what_is_no_hook_or_no_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="hook must be"):
        subscribe("print")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="kinds must be"):
        subscribe(print, kinds=["request_failed"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="kinds must be"):
        subscribe(print, kinds=int)  # type: ignore[arg-type]


def test_threads_may_come_and_go_while_others_tell() -> None:
    heard: list[Event] = []

    def come_and_go() -> None:
        for _ in range(200):
            with subscribe(lambda event: None):
                emit(started())

    with subscribe(heard.append):
        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(heard) == 800


def test_a_place_that_nobody_listens_to_costs_less_than_a_tenth_of_a_microsecond() -> None:
    def place() -> None:
        if RequestAdmitted.wanted:
            raise AssertionError

    def nothing() -> None:
        pass

    times = 100_000
    cost = min(
        timeit.timeit(place, number=times) - timeit.timeit(nothing, number=times) for _ in range(7)
    )
    assert cost / times < 0.1e-6
