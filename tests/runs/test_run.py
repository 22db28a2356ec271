"""The block of a run: who may enter it, what it ends with, and what may come between."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Budget, Run
from llmflow.errors import (
    BillingError,
    ConfigurationError,
    ContentFilterError,
    JournalBusyError,
    JournalError,
    UsageError,
)
from llmflow.events import current_run_id
from llmflow.journal import Journal
from llmflow.runs.catalog import find_run
from llmflow.runs.run import current_run
from llmflow.testing import ScriptedProvider
from tests.runs.asking import in_run, numbered, play

ROOT = Path(__file__).parents[2]


def once(llm: LLM) -> str:
    return llm.run("Hi")


@contextmanager
def program(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a process of its own, in the runs folder of the test."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- entering --------------------------------------------------------------------------


def test_the_innermost_run_counts_and_the_outer_one_goes_on_after_it() -> None:
    provider = numbered()
    llm = LLM(provider)
    with Run("outer") as outer:
        llm.run("a")
        with Run("inner") as inner:
            assert current_run() is inner
            llm.run("b")
        llm.run("c")
        assert current_run() is outer
    assert current_run() is None
    assert (outer.statistics().answered, inner.statistics().answered) == (2, 1)
    assert find_run("outer").totals.answers == 2
    assert find_run("inner").totals.answers == 1


def test_an_inner_run_without_a_budget_is_not_bound_by_the_outer_one() -> None:
    llm = LLM(numbered())
    with Run("outer", budget=Budget(requests=1)):
        llm.run("a")
        with Run("inner"):
            llm.run("b")


def test_a_run_is_entered_once() -> None:
    run = Run("run")
    with run, pytest.raises(UsageError, match="entered before"), run:
        pass
    with pytest.raises(UsageError, match="entered before"), run:
        pass
    assert find_run("run").state == "complete"


def test_the_same_name_twice_in_one_process_says_so() -> None:
    with Run("run") as outer:
        with pytest.raises(JournalBusyError, match="this process"), Run("run"):
            pass
        LLM(numbered()).run("Hi")
        assert outer.statistics().answered == 1
    with Run("run"):
        pass


def test_two_runs_in_tasks_side_by_side_do_not_mix() -> None:
    llm = LLM(numbered(latency=0.01))

    async def one(name: str, count: int) -> int:
        async with Run(name) as run:
            await asyncio.gather(*(llm(f"{name} {number}") for number in range(count)))
            return run.statistics().answered

    async def main() -> list[int]:
        return list(await asyncio.gather(one("a", 3), one("b", 5)))

    assert asyncio.run(main()) == [3, 5]
    assert [find_run(name).totals.answers for name in "ab"] == [3, 5]


def test_a_generator_that_is_broken_off_does_not_leave_its_run_behind() -> None:
    over = asyncio.Event()

    async def answers(llm: LLM) -> AsyncIterator[str]:
        try:
            async with Run("broken-off"):
                while True:
                    yield await llm("Hi")
        finally:
            over.set()

    async def main() -> None:
        llm = LLM(ScriptedProvider())
        async for _ in answers(llm):
            break
        gc.collect()
        await over.wait()  # the loop closes what was broken off
        assert await llm("Hello") == "ok"
        assert current_run() is None

    asyncio.run(main())


def test_blocks_of_generators_may_be_left_in_any_order() -> None:
    def block(name: str) -> Iterator[None]:
        with Run(name):
            yield

    with Run("around") as around:
        first, second = block("first"), block("second")
        next(first)
        next(second)
        first.close()  # type: ignore[attr-defined]
        inner = current_run()
        assert inner is not None
        assert inner.name == "second"
        second.close()  # type: ignore[attr-defined]
        assert current_run() is around
        assert current_run_id.get() == around.id
    assert current_run() is None
    assert current_run_id.get() is None


def test_what_is_asked_outside_belongs_to_no_run() -> None:
    provider = numbered()
    llm = LLM(provider)
    llm.run("Hi")
    play(once, llm)
    llm.run("Hi")
    assert len(provider.requests) == 3
    assert find_run("run").totals.answers == 1


def test_a_second_process_is_told_which_one_is_in_the_run() -> None:
    first = """
        from llmflow import Run
        with Run("run"):
            print("in", flush=True)
            input()
    """
    with program(first) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(JournalBusyError, match=f"process {process.pid} "), Run("run"):
            pass
        assert find_run("run").busy
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(timeout=20) == 0
    with Run("run"):
        pass


def test_a_journal_that_cannot_be_opened_leaves_nothing_entered(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(JournalError), Run("run", folder=tmp_path):
        pass
    assert current_run() is None


def test_a_run_that_failed_to_open_can_be_entered_once_it_can() -> None:
    run = Run("run")
    with Run("run"), pytest.raises(JournalBusyError):
        run.open()
    with run:
        assert play(once, LLM(numbered()), "other") == "1. Hi"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a", "store": "some"}, "store"),
        ({"name": "a", "budget": 5}, "budget"),
        ({"name": "a", "about": {"x": object()}}, "about"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Run(**arguments)
    assert not Path(os.environ["LLMFLOW_JOURNAL_DIR"]).exists()


def test_what_is_kept_is_for_the_user_alone() -> None:
    play(once, LLM(numbered()))
    folder = find_run("run").folder
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


@pytest.mark.parametrize(("store", "again"), [("full", 0), ("answers", 0), ("off", 1)])
def test_how_much_is_kept_is_the_users_choice(store: Any, again: int) -> None:
    play(once, LLM(numbered()), store=store)
    second = numbered()
    play(once, LLM(second), store=store)
    assert len(second.requests) == again
    assert Path(os.environ["LLMFLOW_JOURNAL_DIR"]).exists() == (store != "off")


# --- leaving ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, "complete", None),
        (ValueError("the program's own words"), "stopped", "ValueError"),
        (SystemExit(3), "stopped", "SystemExit"),
        (KeyboardInterrupt(), "interrupted", None),
        (BillingError("no credit"), "stopped", "no credit. "),
        (ExceptionGroup("group", [ContentFilterError("no"), ValueError()]), "stopped", "no"),
        (BaseExceptionGroup("group", [KeyboardInterrupt()]), "interrupted", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_it_was_left_is_noted(
    error: BaseException | None, state: str, reason: str | None
) -> None:
    def in_a_block() -> None:
        with Run("run"):
            if error is not None:
                raise error

    if error is None:
        in_a_block()
    else:
        with pytest.raises(type(error)):
            in_a_block()
    summary = find_run("run")
    assert summary.state == state
    assert (summary.reason or "").startswith(reason or "")
    assert "own words" not in str(summary.reason)


def test_a_cancelled_block_is_interrupted() -> None:
    async def main() -> None:
        async with asyncio.timeout(0.05), Run("run"):
            await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert find_run("run").state == "interrupted"


def test_a_call_after_the_end_is_refused_by_name() -> None:
    provider = numbered()
    llm = LLM(provider)

    async def late(leave: asyncio.Event) -> str:
        await leave.wait()
        return await llm("Hi")

    async def main() -> None:
        leave = asyncio.Event()
        async with Run("run"):
            task = asyncio.create_task(late(leave))
            await asyncio.sleep(0)
        leave.set()
        with pytest.raises(UsageError, match=r"is over.*inside the block"):
            await task

    asyncio.run(main())
    assert provider.requests == []


def test_a_call_that_is_under_way_at_the_end_does_not_hang() -> None:
    async def main() -> None:
        async with Run("run"):
            task = asyncio.create_task(LLM(numbered(latency=0.1))("Hi"))
            await asyncio.sleep(0.01)
        with pytest.raises(JournalError, match="over"):
            await asyncio.wait_for(task, 10)

    asyncio.run(main())


def test_cancelled_while_it_is_left_the_journal_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a second Ctrl-C does it."""
    closing, close = threading.Event(), Journal.close

    def slow(self: Journal, **options: Any) -> None:
        closing.set()
        time.sleep(0.2)
        close(self, **options)

    monkeypatch.setattr(Journal, "close", slow)

    async def work() -> None:
        async with Run("run"):
            await LLM(numbered())("Hi")

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.to_thread(closing.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with Run("run"):
            pass  # nothing holds it any more

    asyncio.run(main())
    assert find_run("run").totals.answers == 1


def test_with_every_thread_busy_a_cancelled_end_is_an_end() -> None:
    """The thread that would close the journal is never reached."""
    release = threading.Event()

    async def work() -> None:
        async with Run("run"):
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, release.wait)
        task = asyncio.create_task(work())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not find_run("run").busy
        release.set()
        await busy

    asyncio.run(main())


INTERRUPTED = """
    import asyncio, sys
    from llmflow import LLM, AsyncParallelBatchNode, Run
    from llmflow.testing import ScriptedProvider

    llm = LLM(ScriptedProvider(default=lambda request: request.messages[0]["content"],
                               latency=0.02))

    class Work(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return [f"text {number}" for number in range(1000)]
        async def exec_async(self, text):
            text = await llm(text)
            print(text, flush=True)      # given out
            return text

    async def main():
        async with Run("run"):
            await Work(concurrency_limit=10).run_async({})

    def sync():
        with Run("run"):
            asyncio.run(Work(concurrency_limit=10).run_async({}))

    asyncio.run(main()) if sys.argv[1] == "async" else sync()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("way", ["async", "sync"])
@pytest.mark.parametrize("impatient", [False, True])
def test_ctrl_c_loses_nothing_that_was_given_out(way: str, impatient: bool) -> None:
    with program(INTERRUPTED, way) as process:
        assert process.stdout is not None
        given_out = [process.stdout.readline().strip() for _ in range(30)]
        process.send_signal(signal.SIGINT)
        if impatient:
            process.send_signal(signal.SIGINT)
        while True:
            try:
                rest, errors = process.communicate(timeout=1 if impatient else 20)
            except subprocess.TimeoutExpired:
                # An event loop that is interrupted between two of its steps can lose one, and
                # then it waits for ever: whoever waits for it would press again.
                assert impatient
                process.send_signal(signal.SIGINT)
            else:
                break
    given_out += rest.split("\n")[:-1]
    assert "KeyboardInterrupt" in errors
    summary = find_run("run")
    assert not summary.busy
    if not impatient:
        assert summary.state == "interrupted"
        assert summary.reason is None
    second = numbered()
    llm = LLM(second)
    again = play(lambda _: llm.map_sync(given_out).texts(), llm)
    assert again == given_out
    assert second.requests == []


# --- loops, threads, processes -----------------------------------------------------------


def test_one_block_may_hold_several_event_loops_one_after_another() -> None:
    def twice(llm: LLM) -> list[str]:
        async def ask(text: str) -> str:
            return await llm(text)

        return [asyncio.run(ask("a")), asyncio.run(ask("b")), llm.run("c")]

    results = play(twice, LLM(numbered()))
    second = numbered()
    assert play(twice, LLM(second)) == results
    assert second.requests == []


def test_and_several_at_a_time() -> None:
    def program(llm: LLM) -> list[str]:
        def loop(number: int) -> list[str]:
            async def main() -> list[str]:
                texts = [f"{number}.{item}" for item in range(20)]
                return list(await asyncio.gather(*map(llm, texts)))

            return asyncio.run(main())

        with ThreadPoolExecutor(4) as threads:
            return [text for texts in threads.map(loop, range(4)) for text in texts]

    results = play(program, LLM(numbered(latency=0.002)))
    assert len(results) == 80
    second = numbered()
    assert play(program, LLM(second)) == results
    assert second.requests == []


def _ask_in_a_child(llm: LLM, results: Any) -> None:
    for run in (None, "child", "run"):
        try:
            if run is None:
                text = llm.run("Hi")
            else:
                with Run(run):
                    text = llm.run("Hi")
        except Exception as error:
            results.put((type(error).__name__, str(error)))
        else:
            results.put(("answer", text))


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.parametrize("name", ["run", None])
def test_a_forked_process_is_not_in_the_run_and_may_have_one_of_its_own(name: str | None) -> None:
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    provider = ScriptedProvider(default="fine")
    llm = LLM(provider)
    with Run("run" if name else None, budget=Budget(requests=100)):
        llm.run("before")
        child = context.Process(target=_ask_in_a_child, args=(llm, results))
        child.start()
        told = [results.get(timeout=20) for _ in range(3)]
        child.join(timeout=20)
        assert child.exitcode == 0
        llm.run("after")
    assert told[0][0] == "UsageError"
    assert "forked" in told[0][1]
    assert told[1] == ("answer", "fine")
    assert told[2][0] == ("JournalBusyError" if name else "answer")
    if name:
        assert f"process {os.getpid()} " in told[2][1]
        assert find_run("run").state == "complete"
        second = numbered()
        play(lambda llm: [llm.run("before"), llm.run("after")], LLM(second))
        assert second.requests == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_process_that_leaves_the_block_closes_nothing() -> None:
    llm = LLM(numbered())
    with Run("run"):
        llm.run("before")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run = current_run()
                assert run is not None
                run.__exit__(None, None, None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert find_run("run").state == "running"
        llm.run("after")
    assert find_run("run").totals.answers == 2


# --- LLM(journal=...) --------------------------------------------------------------------

IMPLICIT = """
    import sys
    from llmflow import LLM, Run
    from llmflow.testing import ScriptedProvider

    provider = ScriptedProvider(default=lambda request: request.messages[0]["content"])
    llm, other = LLM(provider, journal="notes"), LLM(provider, journal="notes")
    llm.run("a"), other.run("b")
    with Run("block"):
        llm.run("c")
    print(len(provider.requests), flush=True)
    if sys.argv[1] == "fail":
        raise ValueError("the program's own words")
    if sys.argv[1] == "same":
        with Run("notes"):
            pass
"""


def test_an_llm_with_a_journal_answers_the_next_process_from_it() -> None:
    for asked in ("3", "0"):
        with program(IMPLICIT, "") as process:
            out, errors = process.communicate(timeout=20)
        assert (out.strip(), errors) == (asked, "")
        assert find_run("notes").state == "complete"
        assert find_run("notes").totals.answers == 2
        assert find_run("block").totals.answers == 1


def test_a_program_that_fails_leaves_its_journal_as_stopped() -> None:
    with program(IMPLICIT, "fail") as process:
        process.communicate(timeout=20)
    summary = find_run("notes")
    assert (summary.state, summary.reason) == ("stopped", "ValueError")


def test_a_run_of_the_same_name_in_the_same_program_is_refused_by_name() -> None:
    with program(IMPLICIT, "same") as process:
        _, errors = process.communicate(timeout=20)
    assert "JournalBusyError: this process is working on the run notes" in errors


def test_a_journal_is_a_name_or_a_run() -> None:
    with pytest.raises(ConfigurationError, match="journal must be"):
        LLM(numbered(), journal=Path("x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="name"):
        LLM(numbered(), journal="a/b")
    with pytest.raises(UsageError, match="not open"):
        LLM(numbered(), journal=Run("run")).run("Hi")


# --- what it tells -----------------------------------------------------------------------


def test_statistics_count_where_answers_came_from() -> None:
    async def main(run: Run) -> Any:
        await asyncio.gather(*(llm("same", temperature=0) for _ in range(3)), llm("other"))
        return run.statistics()

    llm = LLM(numbered(latency=0.01))
    first, again = in_run(main), in_run(main)
    assert (first.answered, first.shared, first.replayed) == (2, 2, 0)
    assert (again.answered, again.shared + again.replayed, again.requests) == (0, 4, 0)
    assert (first.done, again.done) == (4, 4)
    assert (first.in_flight, again.in_flight) == (0, 0)


def test_what_is_kept_with_a_run_is_found_again() -> None:
    with Run("run", about={"who": "me", "rows": [1, 2]}):
        pass
    about = json.loads(json.dumps(dict(find_run("run").about)))
    assert (about["who"], about["rows"], about["kind"]) == ("me", [1, 2], "python")


def test_events_of_a_run_are_told_to_its_hook_and_those_of_others_are_not() -> None:
    events: list[Any] = []
    llm = LLM(numbered())
    with Run("other"), Run("run", on_event=events.append):
        llm.run("Hi")
    llm.run("Hi")
    kinds = [type(each).__name__ for each in events]
    assert kinds[0] == "RunStarted"
    assert kinds[-1] == "RunFinished"
    assert "RequestFinished" in kinds
    assert {each.run_id for each in events} == {"run"}
    assert events[-1].state == "complete"


def test_a_run_shows_its_name_and_no_more() -> None:
    assert repr(Run("run")) == "<Run run: 0 calls>"
    assert repr(Run()) == "<Run without a name: 0 calls>"


# --- the example -------------------------------------------------------------------------


def test_the_example_asks_nothing_the_second_time() -> None:
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "resumable_summaries.py")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        told.append(done.stdout)
    calls = len(list((ROOT / "examples" / "texts").glob("*.txt"))) + 1
    assert f"\n{calls} answered\n" in told[0]
    assert f"\n{calls} from the journal\n" in told[1]
    assert told[0].splitlines()[0] == told[1].splitlines()[0]
