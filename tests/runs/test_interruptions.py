"""A Ctrl-C says in one line what is kept and how to go on."""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from llmflow import (
    LLM,
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchNode,
    Node,
    NotRun,
    Run,
    partial_results,
)
from llmflow.runs import interruptions
from llmflow.testing import ScriptedProvider

ITEMS = [f"text {n}" for n in range(100)]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptions, "in_notebook", lambda: True)


class Presses:
    """Presses Ctrl-C, or cancels as a kernel does, when the twentieth call is made."""

    def __init__(self, press: Callable[[], object]) -> None:
        self.calls = 0
        self.press = press

    def __call__(self, request: Any) -> str:
        self.calls += 1
        if self.calls == 20:
            self.press()
        return "ok"


def interrupted_llm() -> LLM:
    return LLM(ScriptedProvider(default=Presses(_thread.interrupt_main), latency=0.001))


def lines(err: str) -> list[str]:
    return [each for each in err.splitlines() if each.startswith("llmflow: interrupted")]


class Sync(BatchNode):
    llm: LLM

    def prep(self, shared: Any) -> Any:
        return ITEMS

    def exec(self, item: Any) -> Any:
        return self.llm.run(item)


def map_all(llm: LLM) -> Any:
    return llm.map_sync(ITEMS, concurrency=5)


def run_nodes(llm: LLM) -> Any:
    node = Sync()
    node.llm = llm
    node.run({})


@pytest.mark.usefixtures("notebook")
class TestSync:
    @pytest.mark.parametrize("work", [map_all, run_nodes])
    @pytest.mark.parametrize("nameless_run", [False, True])
    def test_without_a_run_that_keeps_it_says_where_the_results_are(
        self, work: Any, nameless_run: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        around = Run() if nameless_run else nullcontext()
        with pytest.raises(KeyboardInterrupt) as caught, around:
            work(interrupted_llm())
        (line,) = lines(capsys.readouterr().err)
        results = partial_results(caught.value)
        assert results is not None
        done = sum(1 for each in results if each is not NotRun)
        assert f"{done} of 100 items are done, and are in llmflow.partial_results(" in line
        assert 'with Run("a-name"):' in line
        assert done > 5

    @pytest.mark.parametrize("work", [map_all, run_nodes])
    def test_a_run_with_a_name_says_what_it_keeps_and_goes_on(
        self, work: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(KeyboardInterrupt), Run("mine") as run:
            work(interrupted_llm())
        assert run.totals is not None
        kept = run.totals.answers
        (line,) = lines(capsys.readouterr().err)
        assert line == (
            f"llmflow: interrupted: {kept} answers are kept in the run mine; run the same code "
            "again, and it goes on from there."
        )
        with Run("mine") as run:
            work(LLM(ScriptedProvider()))
        assert run.statistics().replayed == kept > 5
        assert not lines(capsys.readouterr().err)

    def test_a_stream_says_how_many_were_handed_out(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            seen.extend(interrupted_llm().map_sync(ITEMS, stream=True, concurrency=1))
        (line,) = lines(capsys.readouterr().err) or [""]
        # A signal that comes between two answers leaves the loop, of which a stream sees nothing.
        assert not line or f"{len(seen)} results were handed out" in line

    def test_a_run_without_a_name_and_without_a_batch_says_it_keeps_nothing(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(KeyboardInterrupt), Run():
            raise KeyboardInterrupt
        (line,) = lines(capsys.readouterr().err)
        assert "the run has no name, so nothing is kept" in line


def test_outside_of_a_notebook_it_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Run("mine"):
        map_all(interrupted_llm())
    assert lines(capsys.readouterr().err) == []
    (note,) = caught.value.__notes__
    assert "answers are kept in the run mine" in note


class _Asks:
    def __init__(self, llm: LLM, **options: Any) -> None:
        super().__init__(**options)
        self.llm = llm

    async def prep_async(self, shared: Any) -> Any:
        return ITEMS

    async def exec_async(self, item: Any) -> Any:
        return await self.llm(item)


class AtOnce(_Asks, AsyncParallelBatchNode):
    pass


class InTurn(_Asks, AsyncBatchNode):
    pass


async def awaited(llm: LLM) -> None:
    await llm.map(ITEMS, concurrency=5)


async def at_once(llm: LLM) -> None:
    await AtOnce(llm, concurrency_limit=5).run_async({})


async def in_turn(llm: LLM) -> None:
    await InTurn(llm).run_async({})


async def nested(llm: LLM) -> None:
    class Twice(AsyncBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"n": 1}, {"n": 2}]

    await Twice(start=AtOnce(llm, concurrency_limit=5)).run_async({})


async def cancelled(work: Callable[[LLM], Any], run: Run | None = None) -> BaseException:
    """Let the work be cancelled as a notebook's kernel cancels a cell."""

    async def cell() -> None:
        if run is None:
            await work(llm)
        else:
            async with run:
                await work(llm)

    llm = LLM(ScriptedProvider(default=Presses(lambda: task.cancel()), latency=0.001))
    task = asyncio.ensure_future(cell())
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


WORKS = [awaited, at_once, in_turn, nested]


@pytest.mark.parametrize("work", WORKS)
class TestAsync:
    @pytest.mark.usefixtures("notebook")
    async def test_a_cell_that_awaits_says_it_once(
        self, work: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = await cancelled(work)
        (line,) = lines(capsys.readouterr().err)
        assert "items are done, and are in llmflow.partial_results(" in line
        assert partial_results(error) is not None

    @pytest.mark.usefixtures("notebook")
    async def test_so_does_a_run_with_a_name(
        self, work: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Run("mine")
        await cancelled(work, run)
        assert run.totals is not None
        (line,) = lines(capsys.readouterr().err)
        assert f"{run.totals.answers} answers are kept in the run mine; run the same" in line

    async def test_outside_of_a_notebook_a_cancelled_task_says_nothing(
        self, work: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = await cancelled(work, Run("mine"))
        assert lines(capsys.readouterr().err) == []
        assert not [each for each in getattr(error, "__notes__", ()) if "interrupted" in each]


@pytest.mark.usefixtures("notebook")
async def test_siblings_that_an_error_cancels_say_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Inner(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return [shared, shared]

        async def exec_async(self, item: Any) -> Any:
            if item == 3:
                raise ValueError("three")
            await asyncio.sleep(3600)

    class Outer(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(5)

        async def exec_async(self, item: Any) -> Any:
            await Inner().run_async(item)

    with pytest.raises(ValueError, match="three"):
        await Outer().run_async({})
    assert lines(capsys.readouterr().err) == []


def test_nodes_alone_have_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    class Stops(Node):
        def exec(self, prep_res: Any) -> Any:
            raise KeyboardInterrupt

    class StopsAsync(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stops().run({})
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(StopsAsync().run_async({}))
    assert lines(capsys.readouterr().err) == []
