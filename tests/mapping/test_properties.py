"""Whatever the latencies, failures, sources and consumers: each item once, bounded, in order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmflow.testing import run_virtual
from tests.examples import examples
from tests.mapping.asking import FAILURES, Asked, NoBudget, Read, Refused, mapped, others

SECONDS = st.sampled_from([None, 0.0, 0.5, 1.0, 2.0, 9.0])
WORK = st.lists(st.tuples(SECONDS, st.sampled_from(FAILURES)), max_size=30)
SOURCES = st.sampled_from(["list", "sync", "async"])


def numbered(work: list[Any]) -> list[Any]:
    return [(number, *rest) for number, rest in enumerate(work)]


@examples(300)
@given(
    work=WORK,
    kind=SOURCES,
    ordered=st.booleans(),
    concurrency=st.integers(1, 6),
    room=st.integers(0, 5),
    pauses=st.lists(st.sampled_from([0.0, 0.25, 1.0, 4.0]), min_size=1, max_size=4),
    reading=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_every_item_comes_out_once_in_order_if_asked_and_within_the_bounds(
    work, kind, ordered, concurrency, room, pauses, reading
):
    asked, read = Asked(), Read(numbered(work), kind, reading)
    window = concurrency + room
    # An async source is read by a task that is a few items ahead.
    ahead = concurrency if kind == "async" else 0

    async def scenario() -> list[Any]:
        out = []
        answers = mapped(
            asked,
            read.items,
            concurrency=concurrency,
            ordered=ordered,
            window=window,
        )
        async for result in answers:
            out.append(result)
            assert read.read - len(out) <= window + ahead
            assert len(asked.calls) - len(out) < window + 1
            await asyncio.sleep(pauses[len(out) % len(pauses)])
        assert others() == set()
        assert answers.counts.total == answers.counts.delivered == len(work)
        assert answers.counts.unfinished == 0
        return out

    out = run_virtual(scenario())
    assert [each.index for each in sorted(out, key=lambda each: each.index)] == list(
        range(len(work))
    )
    if ordered:
        assert [each.index for each in out] == list(range(len(work)))
    for each in out:
        number, _, outcome = each.item
        assert number == each.index
        assert isinstance(each.error, outcome) if outcome else each.text == f"answer {number}"
    assert sorted(asked.calls) == list(range(len(work)))
    assert asked.peak <= concurrency
    assert not read.open


@examples(200)
@given(
    work=WORK,
    kind=SOURCES,
    ordered=st.booleans(),
    concurrency=st.integers(1, 6),
    after=st.integers(0, 12),
    seconds=st.sampled_from([0.0, 0.25, 1.0, 3.5]),
    how=st.sampled_from(["break", "aclose", "cancel", "error"]),
)
def test_leaving_at_any_point_stops_all_and_closes_the_source(
    work, kind, ordered, concurrency, after, seconds, how
):
    asked, read = Asked(), Read(numbered(work), kind)
    answers = mapped(asked, read.items, concurrency=concurrency, ordered=ordered, window=8)

    async def consume() -> None:
        count = 0
        async for _ in answers:
            count += 1
            if count > after and how == "break":
                break
            if count > after and how == "error":
                raise ZeroDivisionError
            await asyncio.sleep(0.1)

    async def scenario() -> None:
        task = asyncio.create_task(consume())
        await asyncio.sleep(seconds)
        if how == "cancel":
            task.cancel()
        if how == "aclose":
            task.cancel()
            await asyncio.wait([task])
            await answers.aclose()
        await asyncio.wait([task])
        if not task.cancelled():
            assert isinstance(task.exception(), ZeroDivisionError | None)
        # The loop closes a stream that was dropped; that takes a few turns and no time.
        now = asyncio.get_running_loop().time()
        while others():  # noqa: ASYNC110 - nothing tells when the loop has done it
            await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == now
        assert asked.in_flight == 0
        assert not read.open

    run_virtual(scenario())
    assert len(asked.calls) == len(set(asked.calls))


@examples(200)
@given(
    work=st.lists(
        st.tuples(SECONDS, st.sampled_from([None, None, Refused, NoBudget])), max_size=30
    ),
    kind=SOURCES,
    ordered=st.booleans(),
    concurrency=st.integers(1, 6),
)
@example(work=[(1.0, None), (0.5, NoBudget)], kind="list", ordered=True, concurrency=2)
def test_a_fatal_error_comes_last_and_nothing_that_was_finished_is_lost(
    work, kind, ordered, concurrency
):
    asked, read = Asked(), Read(numbered(work), kind)
    answers = mapped(asked, read.items, concurrency=concurrency, ordered=ordered)
    out: list[int] = []

    async def scenario() -> None:
        async for result in answers:
            out.append(result.index)
            assert not isinstance(result.error, NoBudget)

    fatal = [number for number, (_, outcome) in enumerate(work) if outcome is NoBudget]
    if fatal:
        with pytest.raises(NoBudget) as caught:
            run_virtual(scenario())
        assert str(answers.counts) in caught.value.__notes__[0]
        assert asked.cancelled == []
    else:
        run_virtual(scenario())
    assert sorted(out) == sorted(set(asked.ended) - set(fatal))
    if ordered:
        assert out == sorted(out)
    counts = answers.counts
    assert counts.answered + counts.failed == counts.delivered == len(out)
    if counts.total is not None:
        assert counts.unfinished == len(work) - len(out)
    # What was never finished was never asked, or met the fatal error itself.
    assert set(range(len(work))) - set(out) == (set(range(len(work))) - set(asked.calls)) | (
        set(fatal) & set(asked.calls)
    )


@examples(100)
@given(work=WORK, kind=SOURCES, concurrency=st.integers(1, 6))
def test_awaiting_gives_all_in_the_order_of_the_items(work, kind, concurrency):
    async def scenario() -> Any:
        items = Read(numbered(work), kind).items
        return await mapped(Asked(), items, concurrency=concurrency)

    out = run_virtual(scenario())
    assert [each.index for each in out] == list(range(len(work)))
    assert [each.index for each in out.failed] == [
        number for number, (_, outcome) in enumerate(work) if outcome
    ]
    assert out.counts.failed == len(out.failed)
