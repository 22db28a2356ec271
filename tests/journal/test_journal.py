"""What is recorded is found again: by what was asked, and by how often it was asked before."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tracemalloc
from dataclasses import fields
from pathlib import Path

import pytest

from llmflow import errors
from llmflow.calls.replay import fingerprint
from llmflow.errors import JournalError, ProviderError, RateLimitError
from llmflow.journal import Journal, RecordedFailure, Totals, read_summary, schema
from llmflow.journal.rows import ANSWER_COLUMNS, FAILURE_COLUMNS
from llmflow.types import Response, Usage
from tests.journal.helpers import answer, key, opened


async def test_an_answer_is_found_as_it_was_given(tmp_path: Path) -> None:
    first = answer(
        usage=Usage(
            input_tokens=1,
            output_tokens=2,
            cached_tokens=3,
            reasoning_tokens=4,
            cache_write_tokens=5,
            cache_write_1h_tokens=6,
        ),
        attempts=3,
    )
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, first)
        at_once = journal.find(key(), 0)
    with opened(tmp_path / "run") as journal:
        later = journal.find(key(), 0)
    for found in (at_once, later):
        assert isinstance(found, Response)
        assert found == first
        assert found.raw == first.raw
        assert found.source == "journal"


def test_every_field_of_an_answer_has_a_column() -> None:
    # Outputs stand beside the reply, in its column.
    kept = {each.name for each in fields(Response)} - {"usage", "source", "signals", "outputs"}
    assert kept | {each.name for each in fields(Usage)} <= set(ANSWER_COLUMNS)


def test_every_field_of_an_error_has_a_column() -> None:
    data = ProviderError("").__reduce__()[1][2]
    assert {"error", "message"} | set(data) <= set(FAILURE_COLUMNS)


async def test_answers_only_leaves_out_the_whole_reply(tmp_path: Path) -> None:
    with opened(tmp_path / "run", store="answers") as journal:
        await journal.record(key(), 0, answer())
        found = journal.find(key(), 0)
    assert found == answer()
    assert isinstance(found, Response)
    assert found.raw == {}


async def test_answers_without_prices_ids_and_reasons_stay_so(tmp_path: Path) -> None:
    bare = answer(cost=None, request_id=None, finish_reason=None, raw={})
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, bare)
        assert journal.find(key(), 0) == bare
        assert journal.totals.cost is None


async def test_equal_requests_have_answers_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        for nth in range(3):
            assert journal.find(key(), nth) is None
            await journal.record(key(), nth, answer(nth))
    with opened(tmp_path / "run") as journal:
        assert [journal.find(key(), nth) for nth in range(4)] == [
            answer(0),
            answer(1),
            answer(2),
            None,
        ]


async def test_an_answer_serves_as_many_calls_as_shared_it(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 2, answer(7), uses=3)
        found = [journal.find(key(), nth) for nth in range(6)]
    assert found == [None, None, answer(7), answer(7), answer(7), None]


async def test_a_failure_is_raised_anew_as_its_class(tmp_path: Path) -> None:
    error = RateLimitError(
        "slow down",
        provider="p",
        model="m",
        status=429,
        code="rate",
        request_id="r",
        retry_after=1.5,
        dimension="tpm",
        attempts=4,
    )
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, error)
        found = journal.find(key(), 0)
    assert isinstance(found, RecordedFailure)
    again = found.error()
    assert type(again) is RateLimitError
    assert again.__reduce__() == error.__reduce__()


PROVIDER_ERRORS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, ProviderError)
]


async def test_every_class_of_failure_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        for number, kind in enumerate(PROVIDER_ERRORS):
            await journal.record(key(number), 0, kind("no"))
        found = [journal.find(key(number), 0) for number in range(len(PROVIDER_ERRORS))]
    assert [type(each.error()) for each in found if isinstance(each, RecordedFailure)] == (
        PROVIDER_ERRORS
    )


async def test_a_class_from_elsewhere_comes_back_as_the_one_it_is_made_from(
    tmp_path: Path,
) -> None:
    class OwnError(RateLimitError):
        pass

    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, OwnError("no"))
        found = journal.find(key(), 0)
    assert isinstance(found, RecordedFailure)
    assert type(found.error()) is RateLimitError


@pytest.mark.parametrize("kind", ["NoSuchError", "JournalError", "redact", ""])
def test_an_unknown_class_is_a_provider_error(kind: str) -> None:
    assert type(RecordedFailure(kind=kind, message="no").error()) is ProviderError


async def test_an_answer_takes_the_place_of_a_failure(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, ProviderError("no", attempts=3))
        assert journal.totals.failures == 1
        await journal.record(key(), 0, answer())
        assert journal.find(key(), 0) == answer()
        assert (journal.totals.answers, journal.totals.failures) == (1, 0)
        assert journal.totals.requests == 4


async def test_an_answer_takes_the_place_of_all_failures_that_it_serves(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        for nth in range(4):
            await journal.record(key(), nth, ProviderError("no"))
        await journal.record(key(1), 1, ProviderError("no"))
        await journal.record(key(), 1, answer(), uses=2)
        kinds = [type(journal.find(key(), nth)) for nth in range(4)]
        assert kinds == [RecordedFailure, Response, Response, RecordedFailure]
        assert journal.totals.failures == 3


async def test_a_failure_never_takes_the_place_of_an_answer(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, answer(), uses=3)
        for nth in range(3):
            await journal.record(key(), nth, ProviderError("no"))
        assert [journal.find(key(), nth) for nth in range(3)] == [answer()] * 3
        assert (journal.totals.answers, journal.totals.failures) == (1, 0)


async def test_a_later_failure_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, ProviderError("first"))
        await journal.record(key(), 0, ProviderError("second"))
        found = journal.find(key(), 0)
        assert isinstance(found, RecordedFailure)
        assert found.message == "second"
        assert journal.totals.failures == 1


async def test_of_two_answers_the_first_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, answer(1))
        await journal.record(key(), 0, answer(2))
        assert journal.find(key(), 0) == answer(1)
        # Both were paid for.
        assert (journal.totals.answers, journal.totals.requests) == (1, 2)


async def test_a_failure_and_its_answer_may_come_in_one_group(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await asyncio.gather(
            *(journal.record(key(n), 0, ProviderError("no")) for n in range(300)),
            *(journal.record(key(n), 0, answer(n)) for n in range(300)),
        )
        assert all(journal.find(key(n), 0) == answer(n) for n in range(300))
        assert (journal.totals.answers, journal.totals.failures) == (300, 0)


async def test_totals_are_those_of_all_sessions(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for session in range(2):
        with opened(folder) as journal:
            await asyncio.gather(
                *(journal.record(key(n), session, answer(n, attempts=2)) for n in range(150)),
                *(journal.record(key(n + 999), session, ProviderError("")) for n in (1, 2)),
            )
    expected = Totals(
        answers=300,
        failures=4,
        requests=604,
        input_tokens=3000,
        output_tokens=6000,
        cost=75.0,
    )
    summary = read_summary(folder)
    assert summary is not None
    assert summary.totals == expected
    with opened(folder) as journal:
        assert journal.totals == expected


async def test_what_another_call_paid_for_is_not_counted_as_spent(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await asyncio.gather(
            journal.record(key(1), 0, answer()),
            journal.record(key(2), 0, answer(), paid=False),
            journal.record(key(3), 0, ProviderError("no"), paid=False),
        )
        assert journal.totals == Totals(
            answers=2, failures=1, requests=1, input_tokens=10, output_tokens=20, cost=0.25
        )


async def test_what_cost_is_unknown_is_not_taken_for_free(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(1), 0, answer(cost=None))
        assert journal.totals.cost is None
        await journal.record(key(2), 0, answer(cost=0.0))
        assert journal.totals.cost == 0.0


def test_requests_differ_in_every_part() -> None:
    base = {"provider": "p", "endpoint": "e", "model": "m", "body": b"b"}
    variants = [
        fingerprint(**base | change)  # type: ignore[arg-type]
        for change in (
            {},
            {"provider": "pe", "endpoint": ""},
            {"provider": "", "endpoint": "pe"},
            {"endpoint": "em", "model": ""},
            {"endpoint": "", "model": "em"},
            {"model": "mb", "body": b""},
            {"model": "", "body": b"mb"},
            {"model": "\ud800"},
        )
    ]
    assert len(set(variants)) == len(variants)
    assert {len(each) for each in variants} == {16}


async def test_the_time_is_the_given_clocks(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run", wall=lambda: 12.5)
    journal.begin({})
    await journal.record(key(), 0, ProviderError("no"))
    found = journal.find(key(), 0)
    journal.close()
    assert isinstance(found, RecordedFailure)
    assert found.at == 12.5
    summary = read_summary(tmp_path / "run")
    assert summary is not None
    assert (summary.created_at, summary.last_used_at) == (12.5, 12.5)


@pytest.mark.parametrize("order", ["written", "backwards", "shuffled", "shuffled nearby", "twice"])
async def test_answers_are_found_in_whatever_order_they_are_asked_for(
    order: str, tmp_path: Path
) -> None:
    """Those that are asked for in the order in which they were written are read ahead."""
    keys = [(key(number), nth) for number in range(150) for nth in (0, 3)]
    with opened(tmp_path / "run") as journal:
        for number, each in enumerate(keys):
            journal.put(*each, answer(number), uses=2)
        await journal.put(key(999), 0, ProviderError("no"))
    chosen = list(enumerate(keys))
    generator = random.Random(order)
    if order == "backwards":
        chosen.reverse()
    elif order == "shuffled":
        generator.shuffle(chosen)
    elif order == "shuffled nearby":
        chosen.sort(key=lambda each: each[0] + 20 * generator.random())
    elif order == "twice":
        chosen = [each for each in chosen for _ in range(2)]
    with opened(tmp_path / "run") as journal:
        for number, (fingerprint, nth) in chosen:
            assert journal.find(fingerprint, nth) == answer(number)
            assert journal.find(fingerprint, nth + 1) == answer(number)
            assert journal.find(fingerprint, nth + 2) is None
        assert isinstance(journal.find(key(999), 0), RecordedFailure)
        await journal.record(key(1000), 0, answer(1000))
        assert journal.find(key(1000), 0) == answer(1000)


async def test_a_row_that_is_altered_is_not_replayed_though_it_was_read_ahead(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "run") as journal:
        for number in range(50):
            await journal.record(key(number), 0, answer(number))
    connection = sqlite3.connect(tmp_path / "run" / schema.NAME)
    connection.execute("UPDATE answers SET text = 'x' WHERE id = 20")
    connection.commit()
    connection.close()
    with opened(tmp_path / "run") as journal:
        found = [journal.find(key(number), 0) for number in range(50)]
        assert [number for number, each in enumerate(found) if each is None] == [19]
        assert journal.altered == 1
        await journal.record(key(19), 0, answer(19))
        assert journal.find(key(19), 0) == answer(19)


async def test_a_forked_process_waits_for_no_lock_that_its_parent_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "run") as journal:
        with journal._reading, monkeypatch.context() as patch:
            patch.setattr(journal, "_is_inherited", True)
            looking = asyncio.create_task(asyncio.to_thread(journal.find, key(), 0))
            done, _ = await asyncio.wait([looking], timeout=5)
        assert done
        with pytest.raises(JournalError, match="forked"):
            await looking


async def test_looking_up_a_job_of_unknown_questions_reads_no_others(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        whole = {"text": "x" * 4096}
        await journal.put_many([((key(n), 0), answer(n, raw=whole)) for n in range(2000)])
        unknown = [(key(10**6 + n), 0) for n in range(2000)]
        tracemalloc.start()
        try:
            assert await journal.find_many(unknown) == {}
            assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
        finally:
            tracemalloc.stop()
