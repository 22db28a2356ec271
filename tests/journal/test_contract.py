"""What every journal does, wherever it keeps a run: the contract of the protocol."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.batch.record import JobRecord, JobStore
from llmflow.errors import InvalidRequestError, JournalError, ProviderError, RateLimitError
from llmflow.journal import Journal, JournalProtocol, RecordedFailure
from llmflow.types import Request, Response
from tests.batch.fakes import FakeProvider, FakeServer
from tests.journal.helpers import answer, key
from tests.journal.memory import MemoryJournal
from tests.runs.asking import in_run, numbered

Open = Callable[[], JournalProtocol]
KINDS = {"sqlite": Journal, "memory": MemoryJournal}


@pytest.fixture(name="kind", params=KINDS)
def _kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.fixture(name="reopen")
def _reopen(kind: Any, tmp_path: Path) -> Any:
    """Return what begins a session of one run, after the end of the one before."""
    opened: list[JournalProtocol] = []

    def reopen() -> JournalProtocol:
        for each in opened:
            each.close()
        opened.append(kind.open(tmp_path / "run"))
        return opened[-1]

    yield reopen
    for each in opened:
        each.close()


@pytest.fixture(name="journal")
def _journal(reopen: Open) -> JournalProtocol:
    return reopen()


class TestAnswers:
    async def test_an_answer_is_found_once_it_is_recorded(self, journal: JournalProtocol) -> None:
        assert journal.find(key(), 0) is None
        await journal.put(key(), 0, answer())
        assert journal.find(key(), 0) == answer()
        assert journal.find(key(), 1) is None
        assert journal.find(key(1), 0) is None

    async def test_it_is_for_as_many_equal_calls_as_it_says(self, journal: JournalProtocol) -> None:
        await journal.put(key(), 2, answer(), uses=3)
        found = [journal.find(key(), nth) for nth in range(6)]
        assert found == [None, None, *[answer()] * 3, None]

    async def test_the_first_answer_stays(self, journal: JournalProtocol) -> None:
        await journal.put(key(), 0, answer(1))
        await journal.put(key(), 0, answer(2))
        assert journal.find(key(), 0) == answer(1)
        assert journal.totals.answers == 1

    async def test_a_later_session_finds_it(self, reopen: Open) -> None:
        first = reopen()
        await asyncio.gather(*(first.put(key(n), 0, answer(n)) for n in range(20)))
        second = reopen()
        assert [second.find(key(n), 0) for n in range(20)] == [answer(n) for n in range(20)]

    async def test_what_nobody_waits_for_is_recorded_all_the_same(self, reopen: Open) -> None:
        reopen().put(key(), 0, answer())
        assert reopen().find(key(), 0) == answer()

    async def test_drain_waits_for_all_that_was_put(self, journal: JournalProtocol) -> None:
        for number in range(300):
            journal.put(key(number), 0, answer(number))
        await journal.drain()
        assert all(journal.find(key(n), 0) == answer(n) for n in range(300))

    async def test_cancelling_who_waits_cancels_nothing(self, journal: JournalProtocol) -> None:
        async def wait() -> None:
            await journal.put(key(), 0, answer())

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await journal.drain()
        assert journal.find(key(), 0) == answer()


class TestFailures:
    async def test_a_failure_is_found_as_it_was(self, journal: JournalProtocol) -> None:
        error = RateLimitError("later", status=429, retry_after=2.5, attempts=3)
        await journal.put(key(), 0, error)
        found = journal.find(key(), 0)
        assert isinstance(found, RecordedFailure)
        assert repr(found.error()) == repr(error)
        assert (found.status, found.retry_after, found.attempts) == (429, 2.5, 3)
        assert found.at >= journal.opened_at

    async def test_a_failure_never_takes_the_place_of_an_answer(
        self, journal: JournalProtocol
    ) -> None:
        await journal.put(key(), 0, answer(), uses=2)
        await journal.put(key(), 1, ProviderError("no"))
        assert journal.find(key(), 1) == answer()
        assert journal.totals.failures == 0

    async def test_an_answer_takes_the_place_of_a_failure(self, journal: JournalProtocol) -> None:
        await journal.put(key(), 0, ProviderError("no"))
        assert journal.totals.failures == 1
        await journal.put(key(), 0, answer())
        assert journal.find(key(), 0) == answer()
        assert journal.totals.failures == 0

    async def test_failures_of_earlier_sessions_are_older_than_this_one(self, reopen: Open) -> None:
        await reopen().put(key(), 0, ProviderError("no"))
        await asyncio.sleep(0.01)
        second = reopen()
        found = second.find(key(), 0)
        assert isinstance(found, RecordedFailure)
        assert found.at < second.opened_at


class TestManyAtOnce:
    async def test_what_is_known_is_returned_and_nothing_else(
        self, journal: JournalProtocol
    ) -> None:
        await journal.put(key(0), 0, answer(0), uses=2)
        await journal.put(key(1), 0, ProviderError("no"))
        await journal.put(key(2), 3, answer(2))
        keys = [(key(n), nth) for n in range(4) for nth in range(5)]
        found = await journal.find_many(keys)
        assert set(found) == {(key(0), 0), (key(0), 1), (key(1), 0), (key(2), 3)}
        assert all(found[each] == journal.find(*each) for each in found)

    @pytest.mark.parametrize("count", [0, 1, 8, 127, 129, 1000])
    async def test_any_number_is_found(self, journal: JournalProtocol, count: int) -> None:
        await asyncio.gather(*(journal.put(key(n), 0, answer(n)) for n in range(0, count, 2)))
        found = await journal.find_many([(key(n), 0) for n in range(count)])
        assert found == {(key(n), 0): answer(n) for n in range(0, count, 2)}

    async def test_the_same_may_be_asked_twice(self, journal: JournalProtocol) -> None:
        await journal.put(key(), 0, answer())
        assert await journal.find_many([(key(), 0)] * 3) == {(key(), 0): answer()}

    @pytest.mark.parametrize("seed", [None, 1])
    async def test_texts_are_found_in_whatever_order(
        self, journal: JournalProtocol, seed: int | None
    ) -> None:
        keys = [(key(n), n % 2) for n in range(1000)]
        answers = [replace(answer(n), text=f"text {n}") for n in range(1000)]
        odd = {3: replace(answers[3], text=""), 500: replace(answers[500], finish_reason="length")}
        await journal.put_many((keys[n], odd.get(n, answers[n])) for n in range(1000))
        await journal.put(key(2000), 0, ProviderError("no"))
        if seed is not None:
            random.Random(seed).shuffle(keys)
        texts: dict[Any, str] = {}
        for at in range(0, 1000, 50):
            texts |= await journal.find_texts([*keys[at : at + 50], (key(2000), 0), (key(3000), 0)])
        known = await journal.find_many(keys)
        assert known.keys() == set(keys)
        plain = {(key(n), n % 2): f"text {n}" for n in range(1000) if n not in odd}
        assert plain.items() <= texts.items()
        assert all(getattr(known[each], "text", None) == text for each, text in texts.items())

    @pytest.mark.parametrize("count", [0, 1, 300, 5000])
    async def test_many_outcomes_are_recorded_with_one_future(
        self, reopen: Open, count: int
    ) -> None:
        journal = reopen()
        outcomes = [((key(n), n % 3), answer(n)) for n in range(count)]
        await journal.put_many(iter(outcomes))
        assert await journal.find_many([each for each, _ in outcomes]) == dict(outcomes)
        totals = journal.totals
        assert (totals.answers, totals.requests) == (count, count)
        assert await reopen().find_many([each for each, _ in outcomes]) == dict(outcomes)

    async def test_answers_and_failures_may_be_recorded_together(
        self, journal: JournalProtocol
    ) -> None:
        await journal.put(key(2), 0, answer(2))
        no = ProviderError("no", attempts=2)
        await journal.put_many(
            [((key(0), 0), no), ((key(1), 0), answer(1)), ((key(2), 0), no), ((key(1), 0), no)]
        )
        found = await journal.find_many([(key(n), 0) for n in range(3)])
        assert isinstance(found.pop((key(0), 0)), RecordedFailure)
        assert found == {(key(n), 0): answer(n) for n in (1, 2)}
        assert (journal.totals.answers, journal.totals.failures) == (2, 1)

    async def test_many_put_later_come_after_those_before(self, reopen: Open) -> None:
        journal = reopen()
        journal.put(key(0), 0, answer(0))
        await journal.put_many([((key(0), 0), answer(9)), ((key(1), 0), answer(1))])
        assert journal.find(key(0), 0) == answer(0)
        journal.put_many([((key(2), 0), answer(2))])  # nobody waits
        assert reopen().find(key(2), 0) == answer(2)


class TestSessions:
    async def test_one_began_empty_if_nothing_was_recorded_before(self, reopen: Open) -> None:
        assert reopen().began_empty
        journal = reopen()
        await journal.put(key(), 0, answer())
        assert journal.began_empty
        assert not reopen().began_empty

    async def test_totals_are_those_of_all(self, reopen: Open) -> None:
        first = reopen()
        await first.put(key(0), 0, answer(cost=0.5, attempts=2))
        await first.put(key(0), 1, answer(cost=0.5), paid=False)
        first.charge(cost=0.25, tokens=7.0, requests=1)
        await first.put(key(1), 0, ProviderError("no", attempts=3))
        second = reopen()
        await second.put(key(2), 0, answer(cost=None))
        totals = second.totals
        assert (totals.answers, totals.failures, totals.requests) == (3, 1, 2 + 1 + 3 + 1)
        assert (totals.input_tokens, totals.output_tokens) == (20, 40)
        assert (totals.cost, totals.unsaid_cost, totals.unsaid_tokens) == (0.5, 0.25, 7.0)

    async def test_notes_are_kept(self, reopen: Open) -> None:
        assert reopen().noted("deadline") is None
        reopen().note("deadline", {"at": 1.5, "by": ["a"]})
        assert reopen().noted("deadline") == {"at": 1.5, "by": ["a"]}

    async def test_after_its_end_everything_says_so(self, journal: JournalProtocol) -> None:
        journal.close(state="stopped", reason="why")
        journal.close()
        calls: list[Callable[[], object]] = [
            lambda: journal.find(key(), 0),
            lambda: journal.put(key(), 0, answer()),
            lambda: journal.put_many([((key(), 0), answer())]),
            lambda: journal.put_many([]),
            lambda: journal.put_jobs({"tag": {}}),
            lambda: journal.begin({}),
        ]
        for call in calls:
            with pytest.raises(JournalError, match="is closed"):
                call()
        with pytest.raises(JournalError, match="is closed"):
            await journal.find_many([(key(), 0)])
        with pytest.raises(JournalError, match="is closed"):
            await journal.drain()

    def test_event_loops_in_threads_share_one(self, journal: JournalProtocol) -> None:
        async def work(start: int) -> None:
            await asyncio.gather(*(journal.put(key(start + n), 0, answer(n)) for n in range(50)))

        for start in range(0, 400, 100):
            thread = threading.Thread(target=asyncio.run, args=(work(start),))
            thread.start()
            thread.join()
        assert journal.totals.answers == 200


def job(tag: str, **changes: Any) -> JobRecord:
    given: dict[str, Any] = {
        "tag": tag,
        "queue": "queue",
        "provider": "provider",
        "model": "model",
        "state": "created",
        "requests": 3,
        "created_at": 1.5,
    }
    return JobRecord.of(given | changes)


class TestJobs:
    @pytest.fixture(name="store", params=[*KINDS, "no journal"])
    def _store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        if request.param == "no journal":
            yield JobStore(None)
            return
        journal = KINDS[request.param].open(tmp_path / "run")
        yield JobStore(journal)
        journal.close()

    def test_all_are_returned_in_the_order_in_which_they_were_made(self, store: JobStore) -> None:
        assert store.all() == []
        store.put([job("b"), job("a")])
        store.put([job("c")])
        assert store.all() == [job("b"), job("a"), job("c")]

    def test_a_record_takes_the_place_of_the_one_before(self, store: JobStore) -> None:
        store.put([job("a"), job("b")])
        store.put([job("a", state="done")])
        assert store.all() == [job("a", state="done"), job("b")]

    async def test_a_later_session_has_them(self, reopen: Open) -> None:
        JobStore(reopen()).put([job("a")])  # type: ignore[arg-type]
        second = reopen()
        assert JobStore(second).all() == [job("a")]  # type: ignore[arg-type]
        assert not second.began_empty


class TestRuns:
    """A run is the same with each of them."""

    @pytest.fixture(autouse=True)
    def _use(self, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llmflow.journal.Journal", kind)

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_a_later_session_asks_nothing(self, temperature: float) -> None:
        texts = [f"item {number % 30}" for number in range(40)]
        provider = numbered()

        async def main(run: Run) -> list[str]:
            results = await LLM(provider).map(texts, temperature=temperature)
            return list(results.texts())

        first = in_run(main)
        asked = len(provider.requests)
        assert in_run(main) == first
        assert len(provider.requests) == asked

    def test_a_failure_is_known_later(self) -> None:
        def refuse(_: Request) -> str:
            raise InvalidRequestError("no")

        from llmflow.testing import ScriptedProvider

        provider = ScriptedProvider(default=refuse)

        async def main(run: Run) -> None:
            with pytest.raises(InvalidRequestError):
                await LLM(provider)("Hi")

        in_run(main)
        in_run(main)
        assert len(provider.requests) == 1

    def test_a_batch_job_brings_its_answers(self) -> None:
        server = FakeServer()

        async def main() -> list[Response]:
            llm = LLM(FakeProvider(server), batch=Batch(quiet=0.02, poll=0.002))
            async with Run("batch", mode="batch"):
                return list(await asyncio.gather(*(llm.complete(f"item {n}") for n in range(5))))

        first = [each.text for each in asyncio.run(main())]
        again = asyncio.run(main())
        assert [each.text for each in again] == first
        assert {each.source for each in again} == {"journal"}


def would_block(*_: object) -> None:
    raise AssertionError("the event loop would be blocked")


class TestJournalsThatAreFarAway:
    """They are waited for, by all calls of a turn at once."""

    @pytest.fixture(autouse=True)
    def _use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llmflow.journal.Journal", MemoryJournal)

    def test_look_ups_of_one_turn_are_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        find_many = MemoryJournal.find_many

        async def counted(self: MemoryJournal, keys: Any) -> Any:
            sizes.append(len(keys))
            return await find_many(self, keys)

        monkeypatch.setattr(MemoryJournal, "find_many", counted)
        provider = numbered()

        async def main(run: Run) -> list[str]:
            llm = LLM(provider)
            return list(await asyncio.gather(*(llm(f"item {n}", temperature=1) for n in range(30))))

        first = in_run(main)
        assert sizes == []
        assert in_run(main) == first
        assert sizes == [30]

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_no_call_blocks_the_event_loop(
        self, temperature: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MemoryJournal, "find", would_block)
        texts = [f"item {number % 7}" for number in range(10)]
        server = FakeServer()

        async def main(name: str, submits: bool) -> list[str]:
            llm = LLM(FakeProvider(server), batch=Batch(quiet=0.02, poll=0.002))
            async with Run(name, mode="batch") as run:
                if submits:
                    for text in texts:
                        await llm.submit(text, temperature=temperature)
                    await run.settled()
                results = await llm.map(texts, temperature=temperature)
                return list(results.texts())

        for submits in (False, True):
            first = asyncio.run(main(f"run-{submits}", submits))
            rows = sum(len(each.rows) for each in server.jobs.values())
            assert asyncio.run(main(f"run-{submits}", submits)) == first
            assert sum(len(each.rows) for each in server.jobs.values()) == rows

    def test_no_job_of_an_earlier_session_blocks_the_event_loop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MemoryJournal, "find", would_block)

        def fate(text: str, job: int) -> str | ProviderError:
            return InvalidRequestError("no", status=400) if text == "item 3" else text

        server = FakeServer(looks=2, fate=fate)

        def session(*, collects: bool) -> list[object]:
            async def main() -> list[object]:
                llm = LLM(FakeProvider(server), batch=Batch(quiet=0.02, poll=0.002))
                async with Run("run", mode="batch") as run:
                    if not collects:
                        for number in range(6):
                            await llm.submit(f"item {number}")
                        await run.submitted()
                        return []
                    calls = (llm(f"item {number}") for number in range(5))
                    found = await asyncio.gather(*calls, return_exceptions=True)
                    await run.settled()
                    return list(found)

            return asyncio.run(main())

        session(collects=False)
        first = session(collects=True)
        assert isinstance(first.pop(3), InvalidRequestError)
        assert all(isinstance(each, str) for each in first)
        assert sum(len(each.rows) for each in server.jobs.values()) == 6

    def test_a_call_that_is_cancelled_as_it_waits_gives_its_place_back(self) -> None:
        provider = numbered()

        async def ask(run: Run) -> str:
            return await LLM(provider)("Hi", temperature=1)

        async def ask_again(run: Run) -> str:
            llm = LLM(provider)
            task = asyncio.create_task(llm("Hi", temperature=1))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await llm("Hi", temperature=1)

        assert in_run(ask) == in_run(ask_again) == in_run(ask_again)
        assert len(provider.requests) == 1

    def test_a_journal_that_cannot_be_read_is_every_calls_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> Any:
            raise JournalError("the server is gone")

        provider = numbered()

        async def main(run: Run) -> list[str | BaseException]:
            llm = LLM(provider)
            calls = (llm(f"item {n}") for n in range(5))
            return list(await asyncio.gather(*calls, return_exceptions=True))

        assert all(isinstance(each, str) for each in in_run(main))
        monkeypatch.setattr(MemoryJournal, "find_many", fail)
        assert {str(each) for each in in_run(main)} == {"the server is gone"}
        assert len(provider.requests) == 5

    def test_calls_do_not_hang_at_an_error_that_is_not_made_of_a_text(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> Any:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "no text")

        async def main(run: Run) -> str:
            async with asyncio.timeout(5):
                return await LLM(numbered())("Hi", temperature=1)

        in_run(main)
        monkeypatch.setattr(MemoryJournal, "find_many", fail)
        with pytest.raises(UnicodeDecodeError):
            in_run(main)
