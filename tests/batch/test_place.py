"""Rows that are placed in a job without a waiting task, and called back with their outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Batch, Budget, Price, Run
from llmflow.calls.call import Call, RunLive
from llmflow.calls.place import place
from llmflow.errors import ContentFilterError, InvalidRequestError, ProviderError
from llmflow.types import Response
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)
PRICE = Price(input=10, output=10, batch_input=5, batch_output=5)


class Asking:
    """Places calls of a run, and keeps what comes."""

    def __init__(self, run: Run, llm: LLM) -> None:
        self.run, self.llm = run, llm
        self.came: dict[str, Response | Exception] = {}
        self._changed = asyncio.Event()

    def call(self, text: str) -> Call:
        return self.llm.call_for(text)[1]

    async def place(self, text: str, *, call: Call | None = None) -> bool:
        call = call or self.call(text)
        session = self.run.session
        if session.journal is not None and not call.key:
            assert session.ordinals.identify(call) is None
        return await place(session, call, self._taken(text))

    def _taken(self, text: str) -> Callable[[Response | Exception], None]:
        def done(outcome: Response | Exception) -> None:
            assert text not in self.came, "called once"
            self.came[text] = outcome
            self._changed.set()

        return done

    async def until(self, count: int) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while len(self.came) < count:
                self._changed.clear()
                await self._changed.wait()
        return {text: getattr(each, "text", each) for text, each in self.came.items()}


def llm_at(server: FakeServer, **options: Any) -> LLM:
    return LLM(FakeProvider(server), batch=options.pop("batch", QUICK), **options)


@pytest.mark.parametrize("name", ["run", None])
async def test_answers_come_back_after_they_are_recorded(tmp_path: Path, name: str | None) -> None:
    server = FakeServer()
    llm = llm_at(server, price=PRICE)
    options: dict[str, Any] = {"folder": tmp_path} if name else {}
    async with Run(name, mode="batch", budget=Budget(usd=1.0), **options) as run:
        asking = Asking(run, llm)
        assert all([await asking.place(f"{n}") for n in range(5)])
        assert run.statistics().in_flight == 5
        assert await asking.until(5) == {f"{n}": f"batch: {n}" for n in range(5)}
        statistics = run.statistics()
        assert (statistics.in_flight, statistics.answered, statistics.replayed) == (0, 5, 0)
        answer = asking.came["0"]
        assert isinstance(answer, Response)
        assert answer.cost == pytest.approx(75e-6)
        assert run.ledger is not None
        assert run.ledger.spent.usd == pytest.approx(5 * 75e-6)
        assert run.ledger.state().under_way == 0
        if name:
            again = asking.call("0")
            assert run.session.ordinals.fingerprint(again)
    if name:
        async with Run(name, mode="batch", folder=tmp_path) as run:
            assert await llm("0") == "batch: 0"
            assert run.statistics().replayed == 1
    assert server.sizes == [5]


async def test_a_failure_comes_back_as_an_error_and_is_recorded(tmp_path: Path) -> None:
    server = FakeServer(fate=lambda p, job: ContentFilterError("no") if p == "1" else p)
    llm = llm_at(server)
    async with Run("run", mode="batch", folder=tmp_path) as run:
        asking = Asking(run, llm)
        for n in range(3):
            await asking.place(f"{n}")
        came = await asking.until(3)
        assert isinstance(came["1"], ContentFilterError)
        assert run.statistics().failed == 1
    async with Run("run", mode="batch", folder=tmp_path):
        with pytest.raises(ContentFilterError):
            await llm("1")


async def test_what_a_job_leaves_over_is_to_be_asked_live(tmp_path: Path) -> None:
    server = FakeServer(fate=lambda p, job: None if p == "1" else f"batch: {p}")
    llm = llm_at(server, mode="batch", fallback="parallel", price=PRICE)
    async with Run("run", folder=tmp_path, budget=Budget(usd=1.0)) as run:
        asking = Asking(run, llm)
        for n in range(3):
            await asking.place(f"{n}")
        came = await asking.until(3)
        assert isinstance(came["1"], RunLive)
        assert await llm("1") == "live: 1"
        assert run.ledger is not None
        assert run.ledger.state().under_way == 0
    assert server.sizes == [3]


async def test_what_a_deadline_leaves_over_is_to_be_asked_live(tmp_path: Path) -> None:
    server = FakeServer(looks=10**9, fate=lambda prompt, job: None)
    llm = llm_at(
        server, mode="batch", deadline=1.0, batch=Batch(quiet=0.02, poll=0.005, requests=2)
    )
    async with Run("run", folder=tmp_path) as run:
        asking = Asking(run, llm)
        for n in range(3):
            assert await asking.place(f"{n}")
        came = await asking.until(3)
        assert [type(each) for each in came.values()] == [RunLive] * 3
        assert run.statistics().in_flight == 0
        assert not await asking.place("4"), "and nothing goes into a job any more"
        assert await asyncio.gather(*(llm(f"{n}") for n in range(3))) == [
            f"live: {n}" for n in range(3)
        ]
    assert len(server.billed) == len(set(server.billed))


async def test_equal_calls_share_the_row_of_the_first(tmp_path: Path) -> None:
    server = FakeServer()
    llm = llm_at(server, temperature=0)
    async with Run("run", mode="batch", folder=tmp_path) as run:
        asking = Asking(run, llm)
        assert await asking.place("same")
        other = asking.call("same")
        other.shares = True
        assert run.session.ordinals.identify(other) is None
        assert not await place(run.session, other, print)
        waiting = asyncio.ensure_future(llm("same"))
        assert (await run.session.ask(other)).text == "batch: same"
        assert await waiting == "batch: same"
        assert await asking.until(1) == {"same": "batch: same"}
    assert server.sizes == [1]
    async with Run("run", mode="batch", folder=tmp_path):
        assert [await llm("same") for _ in range(3)] == ["batch: same"] * 3
    assert server.sizes == [1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "auto"},
        {"mode": "parallel", "fallback": "batch"},
    ],
)
async def test_other_calls_are_not_placed_and_are_asked_as_any_other(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    server = FakeServer()
    llm = llm_at(server, **options)
    async with Run("run", folder=tmp_path) as run:
        asking = Asking(run, llm)
        call = asking.call("1")
        assert not await asking.place("1", call=call)
        assert (await run.session.ask(call)).text.endswith(": 1")
        assert asking.came == {}


async def test_a_wrong_answer_comes_as_one_to_ask_again_and_a_right_one_as_itself(
    tmp_path: Path,
) -> None:
    llm = llm_at(FakeServer(), validate=lambda response: "1" in response.text)
    async with Run("run", mode="batch", folder=tmp_path) as run:
        asking = Asking(run, llm)
        assert [await asking.place(each) for each in "12"] == [True, True]
        found = await asking.until(2)
        assert found["1"] == "batch: 1"
        assert isinstance(found["2"], RunLive)
        assert found["2"].answer.text == "batch: 2"
        again = asking.call("2")
        again.key, again.answer = b"key", found["2"].answer
        assert not await asking.place("2", call=again), "it waits for its further request"


async def test_what_does_not_fit_into_the_budget_now_is_not_placed(tmp_path: Path) -> None:
    llm = llm_at(FakeServer())
    async with Run("run", mode="batch", folder=tmp_path, budget=Budget(requests=1)) as run:
        asking = Asking(run, llm)
        assert await asking.place("1")
        assert not await asking.place("2")
        assert await asking.until(1) == {"1": "batch: 1"}


async def test_a_row_that_no_job_may_have_is_refused_at_once(tmp_path: Path) -> None:
    llm = llm_at(FakeServer(), batch=Batch(quiet=0.02, poll=0.005, size=100))
    async with Run("run", mode="batch", folder=tmp_path) as run:
        asking = Asking(run, llm)
        with pytest.raises(InvalidRequestError, match="too large"):
            await asking.place("x" * 200)
        assert run.statistics().in_flight == 0


async def test_a_run_that_is_over_says_so(tmp_path: Path) -> None:
    llm = llm_at(FakeServer(looks=10**9))
    async with Run("run", mode="batch", folder=tmp_path) as run:
        asking = Asking(run, llm)
        await asking.place("1")
        await asyncio.sleep(0.05)
    came = await asking.until(1)
    assert "the run is over" in str(came["1"])
    assert not isinstance(came["1"], ProviderError)
