"""A map takes its mode, its deadline, its progress and the rest by itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from llmflow import LLM, Result, Run
from llmflow.batch import Batch
from llmflow.errors import ConfigurationError, InvalidAnswerError, UnknownArgumentError
from llmflow.runs.catalog import find_run
from llmflow.testing import ScriptedProvider
from llmflow.types import Response
from tests.batch.fakes import FakeProvider, FakeServer
from tests.observing import is_drawing
from tests.runs.test_progress_everywhere import Shown

QUICK = Batch(quiet=0.05, poll=0.01)
TEXTS = ["a", "b", "c"]
Way = Callable[..., list[Result[Any]]]


def awaited(llm: LLM, items: Any, **options: Any) -> list[Result[Any]]:
    async def main() -> Any:
        return await llm.map(items, **options)

    return list(asyncio.run(main()))


def iterated(llm: LLM, items: Any, **options: Any) -> list[Result[Any]]:
    async def main() -> list[Result[Any]]:
        return [each async for each in llm.map(items, ordered=True, **options)]

    return asyncio.run(main())


def whole(llm: LLM, items: Any, **options: Any) -> list[Result[Any]]:
    return list(llm.map_sync(items, **options))


def streamed(llm: LLM, items: Any, **options: Any) -> list[Result[Any]]:
    return list(llm.map_sync(items, stream=True, ordered=True, **options))


WAYS = [awaited, iterated, whole, streamed]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@each_way
class TestMode:
    def test_batch_makes_a_job_and_no_field_of_the_body(self, way: Way) -> None:
        server = FakeServer()
        llm = LLM(FakeProvider(server))
        found = way(llm, TEXTS, prompt="{text}", mode="batch", batch=QUICK)
        assert [each.text for each in found] == ["batch: a", "batch: b", "batch: c"]
        assert (server.sizes, server.live) == ([3], [])

    def test_it_wins_over_that_of_the_llm_and_of_the_run(self, way: Way) -> None:
        server = FakeServer()
        llm = LLM(FakeProvider(server), mode="batch", batch=QUICK)
        with Run(mode="batch"):
            found = way(llm, TEXTS, mode="parallel")
        assert [each.text for each in found] == ["live: a", "live: b", "live: c"]
        assert server.sizes == []

    def test_a_deadline_alone_changes_the_mode_that_is_chosen(self, way: Way) -> None:
        server = FakeServer()
        llm = LLM(FakeProvider(server), mode="batch", batch=QUICK)
        assert way(llm, TEXTS, deadline="6h", fallback="parallel")
        assert server.sizes == [3]

    def test_wrong_ones_are_refused_at_once(self, way: Way) -> None:
        llm = LLM(FakeProvider(FakeServer()))
        for given, said in (
            ({"mode": "bacth"}, "mode must be one of"),
            ({"deadline": "6h"}, "need a mode"),
            ({"mode": "auto", "deadline": "soon"}, "deadline must be a time"),
            ({"mode": "batch", "fallback": "batch"}, "are the same"),
            ({"batch": 5}, "batch must be a Batch"),
            ({"validate": 5}, "validate must be a function"),
            ({"max_tokens": 0}, "max_tokens must be"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                way(llm, TEXTS, **given)


@each_way
def test_validate_is_of_this_map_only(way: Way) -> None:
    def no_b(response: Response) -> bool:
        return response.text != "b"

    llm = LLM(ScriptedProvider(default=lambda request: str(request.messages[-1]["content"])))
    found = way(llm, TEXTS, validate=no_b)
    # Asked again, the provider repeats the remark on its first answer, which is accepted.
    assert found[1].text != "b"
    assert llm.validate is None
    with pytest.raises(InvalidAnswerError):
        way(llm, ["x"], validate=lambda response: False)[0].text  # noqa: B018


@each_way
def test_options_go_over_those_of_the_llm_unchecked(way: Way) -> None:
    provider = ScriptedProvider()
    way(LLM(provider, options={"a": 1, "b": 2}), ["x"], options={"b": 3, "zzz": 4}, top_p=0.5)
    assert provider.requests[0].options == {"a": 1, "b": 3, "top_p": 0.5, "zzz": 4}


class TestArguments:
    @each_way
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"concurency": 5}, "did you mean 'concurrency'?"),
            ({"promt": "x"}, "did you mean 'prompt'?"),
            ({"budget": 5}, "budget belongs to Run(...)"),
            ({"concurrency_limit": 5}, "did you mean 'concurrency'?"),
            ({"retry": 5}, "retry belongs to LLM(...)"),
            ({"top_pp": 5}, "did you mean 'top_p'? A field of the provider's"),
        ],
    )
    def test_unknown_ones_are_refused_before_anything_is_asked(
        self, way: Way, given: dict[str, Any], said: str
    ) -> None:
        provider = ScriptedProvider()
        provider.known_options = {"top_p"}  # type: ignore[attr-defined]
        with pytest.raises(UnknownArgumentError) as caught:
            way(LLM(provider), TEXTS, **given)
        assert said in str(caught.value)
        assert provider.requests == []

    def test_a_prompt_without_its_name_says_how_it_is_written(self) -> None:
        pd: Any = pytest.importorskip("pandas")
        frame = pd.DataFrame({"text": TEXTS})
        llm: Any = LLM(ScriptedProvider())
        said = r'llm.map_sync\(items, prompt="Summarize: \{text\}"\)'
        with pytest.raises(UnknownArgumentError, match=said):
            llm.map_sync(frame, "Summarize: {text}")
        with pytest.raises(UnknownArgumentError, match=r"llm.map\(items, prompt=\.\.\.\)"):
            llm.map(TEXTS, str.upper)


@pytest.mark.parametrize("where", ["terminal", "notebook", "log"])
@each_way
class TestProgress:
    def test_it_is_shown_without_a_run(
        self, way: Way, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = Shown(where, monkeypatch)
        found = way(LLM(ScriptedProvider()), TEXTS, progress=True)
        assert [each.text for each in found] == ["ok"] * 3
        assert "map: 3 items in " in shown.last
        assert "3 answered, 0 failed" in shown.last
        assert not is_drawing()

    def test_it_is_shown_in_a_run_which_keeps_the_answers(
        self, way: Way, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = Shown(where, monkeypatch)
        with Run("night"):
            way(LLM(ScriptedProvider()), TEXTS, progress=True)
        assert "map: 3 items in " in shown.last
        assert find_run("night").totals.answers == 3

    def test_in_a_run_that_shows_its_own_there_is_one(
        self, way: Way, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = Shown(where, monkeypatch)
        with Run("night", progress=True):
            way(LLM(ScriptedProvider()), TEXTS, progress=True)
        assert "run night: 3 calls in " in shown.last

    def test_the_journal_of_the_llm_keeps_the_answers(
        self, way: Way, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Shown(where, monkeypatch)
        run = Run("night")
        run.open()
        way(LLM(ScriptedProvider(), journal=run), TEXTS, progress=True)
        run.close()
        assert find_run("night").totals.answers == 3


class TestTotal:
    def views(self, items: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return what the progress shows when all is over."""
        from llmflow.mapping import surroundings

        made: list[Any] = []
        real = surroundings.MapProgress

        def make(*arguments: Any) -> Any:
            made.append(real(*arguments))
            return made[-1]

        monkeypatch.setattr(surroundings, "MapProgress", make)
        monkeypatch.setattr(sys, "stderr", None)
        seen: list[Any] = []
        stream = LLM(ScriptedProvider()).map_sync(
            items, prompt="{text}", progress=True, stream=True, concurrency=1
        )
        seen.extend(made[0].view() for _ in stream)
        return seen[0]

    def test_it_is_the_length_of_the_items(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.views(TEXTS, monkeypatch).total == 3

    def test_of_a_frame_it_is_its_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pd: Any = pytest.importorskip("pandas")
        assert self.views(pd.DataFrame({"text": TEXTS}), monkeypatch).total == 3

    def test_of_a_generator_it_is_unknown_until_it_ends(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.views(iter(["a"] * 500), monkeypatch).total is None


@each_way
def test_a_map_that_fails_ends_its_progress(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    Shown("log", monkeypatch)

    def broken() -> Any:
        yield "a"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        way(LLM(ScriptedProvider()), broken(), progress=True)
    assert not is_drawing()


def test_a_stream_that_is_left_ends_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    Shown("log", monkeypatch)
    with LLM(ScriptedProvider()).map_sync(["a"] * 50, stream=True, progress=True) as stream:
        for _ in stream:
            break
    assert not is_drawing()


async def test_the_code_around_a_stream_is_not_in_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmflow import current_run

    Shown("log", monkeypatch)
    async for _ in LLM(ScriptedProvider()).map(TEXTS, progress=True):
        assert current_run() is None
