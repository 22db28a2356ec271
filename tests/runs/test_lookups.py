"""A journal that began empty is not asked for what this session asks for the first time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmflow.batch import Batch
from llmflow.calls.call import Call
from llmflow.calls.replay import LookUps
from llmflow.errors import InvalidRequestError
from llmflow.journal import Journal
from llmflow.llm import LLM
from llmflow.runs.run import Run
from llmflow.testing import ScriptedProvider
from llmflow.types import Request
from tests.batch.fakes import FakeProvider, FakeServer
from tests.journal.helpers import answer, key, opened
from tests.journal.memory import MemoryJournal
from tests.runs.asking import in_run, numbered, play

TEXTS = [f"item {number}" for number in range(50)]


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, int]]:
    """Note what is looked up in journals."""
    found: list[tuple[bytes, int]] = []
    find = Journal.find

    def noted(self: Journal, fingerprint: bytes, nth: int) -> Any:
        found.append((fingerprint, nth))
        return find(self, fingerprint, nth)

    monkeypatch.setattr(Journal, "find", noted)
    return found


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_first_session_looks_nothing_up_and_the_second_everything(
    looked_up: list[tuple[bytes, int]], temperature: float
) -> None:
    def program(llm: LLM) -> list[str]:
        return list(llm.map_sync(TEXTS, temperature=temperature).texts())

    first = play(program, LLM(numbered()))
    assert looked_up == []
    second = numbered()
    assert play(program, LLM(second)) == first
    assert len(looked_up) == len(TEXTS)
    assert second.requests == []


def test_a_question_that_was_asked_before_in_the_session_is_looked_up(
    looked_up: list[tuple[bytes, int]],
) -> None:
    provider = numbered()

    async def main(run: Run) -> list[str]:
        llm = LLM(provider)
        return [await llm("Hi", temperature=0) for _ in range(3)]

    assert len(set(in_run(main))) == 3  # one after the other, they are asked anew
    assert [nth for _, nth in looked_up] == [1, 2]


def test_a_place_that_was_given_back_is_looked_up(looked_up: list[tuple[bytes, int]]) -> None:
    provider = numbered(latency=0.2)

    async def main(run: Run) -> str:
        llm = LLM(provider)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm("Hi"), 0.05)
        return await llm("Hi")

    in_run(main)
    assert [nth for _, nth in looked_up] == [0]


def submitted(run: str, *, first: bool = True) -> dict[str, bool]:
    """Submit rows, before or after other calls of the session; return what was asked."""

    async def main() -> dict[str, bool]:
        provider = FakeProvider(FakeServer())
        llm = LLM(provider, batch=Batch(quiet=0.02, poll=0.002))
        async with Run(run, mode="batch") as open_run:
            if not first:
                await llm("Another")
            asked = {text: await llm.submit(text) for text in TEXTS}
            await open_run.settled()
        return asked

    return asyncio.run(main())


def test_what_is_submitted_first_is_not_looked_up_and_in_a_later_session_once(
    looked_up: list[tuple[bytes, int]],
) -> None:
    assert all(submitted("a").values())
    assert looked_up == []
    assert not any(submitted("a").values())
    assert len(looked_up) == len(TEXTS)


def test_what_is_submitted_after_a_call_of_the_session_is_looked_up(
    looked_up: list[tuple[bytes, int]],
) -> None:
    assert all(submitted("b", first=False).values())
    assert len(looked_up) == len(TEXTS)


def test_what_is_submitted_again_in_a_session_is_not_asked_again(
    looked_up: list[tuple[bytes, int]],
) -> None:
    async def main() -> list[bool]:
        server = FakeServer()
        llm = LLM(FakeProvider(server), batch=Batch(quiet=0.02, poll=0.002))
        async with Run("c", mode="batch") as run:
            first = [await llm.submit("Hi"), await llm.submit("Hi")]
            await run.settled()
            run.session.ordinals.begin_again()
            return [*first, await llm.submit("Hi"), await llm.submit("Hi"), await llm.submit("Hi")]

    assert asyncio.run(main()) == [True, True, False, False, True]
    assert [nth for _, nth in looked_up][-3:] == [0, 1, 2]


def test_what_a_job_brings_while_others_are_submitted_is_not_asked_again() -> None:
    async def main() -> list[bool]:
        llm = LLM(FakeProvider(FakeServer()), batch=Batch(quiet=0.02, poll=0.002, requests=2))
        async with Run("d", mode="batch") as run:
            first = [await llm.submit(text) for text in TEXTS[:5]]
            await asyncio.sleep(0.3)  # some are answered by then
            run.session.ordinals.begin_again()
            again = [await llm.submit(text) for text in TEXTS[:6]]
            await run.settled()
            assert run.statistics().answered == 6
        return [*first, *again]

    found = asyncio.run(main())
    assert found[:5] == [True] * 5
    assert not any(found[5:9])


def test_what_was_recorded_for_nobody_who_asked_is_found(tmp_path: Path) -> None:
    """Whatever the journal is told, not the journal but who asks it leaves out a look-up."""
    with opened(tmp_path) as journal:
        assert journal.began_empty

        async def main() -> None:
            await journal.record(key(), 0, answer())

        asyncio.run(main())
        assert journal.find(key(), 0) is not None


def test_a_journal_with_a_row_or_a_batch_job_did_not_begin_empty(tmp_path: Path) -> None:
    async def failed(journal: Journal) -> None:
        await journal.record(key(), 0, InvalidRequestError("no"))

    async def answered(journal: Journal) -> None:
        await journal.record(key(), 0, answer())

    for number, write in enumerate((failed, answered)):
        with opened(tmp_path / str(number)) as journal:
            asyncio.run(write(journal))
            assert journal.began_empty
        with opened(tmp_path / str(number)) as journal:
            assert not journal.began_empty
    with opened(tmp_path / "jobs") as journal:
        journal.put_jobs({"tag": {"state": "created"}})
    with opened(tmp_path / "jobs") as journal:
        assert not journal.began_empty


def test_a_failure_of_the_first_session_is_known_in_the_second() -> None:
    def refuse(request: Request) -> str:
        raise InvalidRequestError("no")

    async def main(run: Run) -> None:
        with pytest.raises(InvalidRequestError):
            await LLM(ScriptedProvider(default=refuse))("Hi")

    in_run(main)
    second = numbered()

    async def again(run: Run) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            await LLM(second)("Hi")
        assert caught.value.source == "journal"

    in_run(again)
    assert second.requests == []


def test_places_are_taken_again_from_the_first_one_and_once() -> None:
    llm = LLM(ScriptedProvider())
    with Run("run") as run:
        ordinals = run.session.ordinals

        def asked(text: str) -> Call:
            call = llm.call_for(text)[1]
            ordinals.identify(call)
            return call

        first, *_ = [asked("a") for _ in range(4)]
        other = asked("b")
        ordinals.give_back(first, (3, 1))
        ordinals.give_back(other, (0,))
        assert [asked("a").ordinal for _ in range(3)] == [1, 3, 4]
        assert [asked("b").ordinal for _ in range(2)] == [0, 1]


async def test_an_eager_task_factory_looks_up_all_that_a_turn_asks_for(tmp_path: Path) -> None:
    def eager(loop: asyncio.AbstractEventLoop, work: Any, **_: Any) -> Any:
        """Run work here and now, as `asyncio.eager_task_factory` does."""
        done = loop.create_future()
        try:
            while True:
                work.send(None)
        except StopIteration as end:
            done.set_result(end.value)
        return done

    journal, loop = MemoryJournal.open(tmp_path), asyncio.get_running_loop()
    rows = [(key(number), 0) for number in range(3)]
    await journal.put_many([(row, answer(number)) for number, row in enumerate(rows)])
    look_ups = LookUps(journal)
    asked = [asyncio.Task(look_ups.find(row), loop=loop) for row in rows]
    loop.set_task_factory(eager)
    try:
        found = [await each for each in asked]
    finally:
        loop.set_task_factory(None)
    assert None not in found
