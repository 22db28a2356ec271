"""A failing item says which one it is, in a note on its exception."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmflow import (
    LLM,
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Failure,
    Flow,
    Node,
)
from llmflow.errors import BillingError, ContentFilterError, InputError, MissingKeyError
from llmflow.failure_notes import in_short, note_item
from llmflow.testing import ScriptedProvider

KEY = "sk-secret-0123456789"


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def invert(value: Any) -> Any:
    return 1 / value


class Sync(BatchNode):
    def prep(self, shared: Any) -> Any:
        return [1, 2, 0]

    def exec(self, item: Any) -> Any:
        return invert(item)

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        shared["results"] = exec_res


class _Async:
    async def prep_async(self, shared: Any) -> Any:
        return [1, 2, 0]

    async def exec_async(self, item: Any) -> Any:
        return invert(item)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        shared["results"] = exec_res


class InTurn(_Async, AsyncBatchNode):
    pass


class AtOnce(_Async, AsyncParallelBatchNode):
    pass


def ran(node: Any) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    if isinstance(node, AsyncNode):
        asyncio.run(node.run_async(shared))
    else:
        node.run(shared)
    return shared


BATCHES = [Sync, InTurn, AtOnce]


@pytest.mark.parametrize("kind", BATCHES)
class TestNodes:
    def test_the_item_is_named_where_it_ends_the_batch(self, kind: type[Any]) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            ran(kind())
        assert notes(caught.value) == [f"llmflow: item 2 of {kind.__name__}: 0"]

    def test_the_item_is_named_where_failures_are_collected(self, kind: type[Any]) -> None:
        failure = ran(kind(on_error="collect"))["results"][2]
        assert isinstance(failure, Failure)
        assert notes(failure.error) == [f"llmflow: item 2 of {kind.__name__}: 0"]

    def test_in_a_flow_its_parameters_are_named_too(self, kind: type[Any]) -> None:
        flow = AsyncFlow(start=kind())
        flow.set_params({"file": "a.txt"})
        with pytest.raises(ZeroDivisionError) as caught:
            ran(flow)
        assert notes(caught.value) == [
            f"llmflow: item 2 of {kind.__name__}: 0, with {{'file': 'a.txt'}}",
            f"llmflow: in {kind.__name__}, with {{'file': 'a.txt'}}",
        ]


class Fails(Node):
    def exec(self, prep_res: Any) -> Any:
        if self.params.get("n") == 2:
            raise KeyError("mine")


class FailsAsync(AsyncNode):
    async def exec_async(self, prep_res: Any) -> Any:
        if self.params.get("n") == 2:
            raise KeyError("mine")


def three(*_: Any) -> list[dict[str, int]]:
    return [{"n": 1}, {"n": 2}, {"n": 3}]


async def three_async(*_: Any) -> list[dict[str, int]]:
    return three()


FLOWS: list[Any] = [
    (type("Mine", (BatchFlow,), {"prep": three}), Fails),
    (type("Mine", (AsyncBatchFlow,), {"prep_async": three_async}), FailsAsync),
    (type("Mine", (AsyncBatchFlow,), {"prep_async": three_async}), Fails),
    (type("Mine", (AsyncParallelBatchFlow,), {"prep_async": three_async}), FailsAsync),
    (type("Mine", (AsyncParallelBatchFlow,), {"prep_async": three_async}), Fails),
]


@pytest.mark.parametrize(("flow", "node"), FLOWS)
def test_a_run_of_a_batch_flow_is_named_with_its_node(flow: Any, node: Any) -> None:
    with pytest.raises(KeyError) as caught:
        ran(flow(start=node()))
    assert notes(caught.value) == [
        f"llmflow: in {node.__name__}, with {{'n': 2}}",
        "llmflow: run 1 of Mine: {'n': 2}",
    ]


@pytest.mark.parametrize("flow", [Flow, AsyncFlow])
def test_a_node_of_a_plain_flow_is_named(flow: Any) -> None:
    node = Fails()
    outer = flow(start=node)
    outer.set_params({"n": 2})
    with pytest.raises(KeyError) as caught:
        ran(outer)
    assert notes(caught.value) == ["llmflow: in Fails, with {'n': 2}"]


class TestMaps:
    def scripted(self) -> LLM:
        def reply(request: Any) -> Any:
            text = request.messages[0]["content"]
            return ContentFilterError("no") if text == "bad" else "ok"

        return LLM(ScriptedProvider(default=reply))

    def test_a_result_that_failed_says_which_item_it_is(self) -> None:
        (_, failed) = self.scripted().map_sync([{"text": "a"}, {"text": "bad"}], prompt="{text}")
        assert failed.error is not None
        assert notes(failed.error) == ["llmflow: item 1 of the map: {'text': 'bad'}"]

    def test_so_does_what_is_raised(self) -> None:
        with pytest.raises(ContentFilterError) as caught:
            self.scripted().map_sync(["a", "bad"], on_error="raise")
        assert notes(caught.value)[0] == "llmflow: item 1 of the map: 'bad'"

    async def test_an_item_without_a_prompt_is_named_too(self) -> None:
        (failed,) = await self.scripted().map([{"other": "x"}], prompt="{text}")
        assert isinstance(failed.error, InputError)
        assert notes(failed.error) == ["llmflow: item 0 of the map: {'other': 'x'}"]

    def test_what_no_item_can_help_names_none(self) -> None:
        llm = LLM(ScriptedProvider(default=lambda request: BillingError("no credit")))
        with pytest.raises(BillingError) as caught:
            llm.map_sync(["a"])
        assert not [each for each in notes(caught.value) if "item 0" in each]


def test_what_no_item_can_help_names_none_in_a_node() -> None:
    class Asks(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return [1]

        async def exec_async(self, item: Any) -> Any:
            raise MissingKeyError("no key")

    with pytest.raises(MissingKeyError) as caught:
        ran(Asks())
    assert notes(caught.value) == []


class TestInShort:
    def test_a_key_is_not_shown(self) -> None:
        values: list[Any] = [KEY, {"key": KEY}, [KEY], ("x" * 55) + KEY, Speaks(f"<{KEY}>")]
        for value in values:
            assert "0123456789" not in in_short(value)

    def test_a_long_item_is_cut_and_a_large_one_is_not_written_out(self) -> None:
        assert len(in_short("x" * 10_000_000)) < 100
        assert len(in_short({str(n): "x" * 1000 for n in range(1000)})) < 400
        assert in_short([[1] * 1_000_000]) == "[list of 1,000,000]"
        assert in_short(b"x" * 2000) == "2,000 bytes"

    def test_it_is_one_line_without_control_characters(self) -> None:
        assert in_short("a\n\x1b[31mb") == "'a [31mb'"
        assert in_short(Speaks("a\n\x1b[31mb")) == "a [31mb"

    def test_what_is_named_as_a_secret_is_not_shown(self) -> None:
        item = {"password": "hunter2", "API-Key": "abc", "access_token": "x", "max_tokens": 5}
        assert in_short(item) == (
            "{'password': '***', 'API-Key': '***', 'access_token': '***', 'max_tokens': 5}"
        )

    def test_what_has_no_representation_is_named_by_its_class(self) -> None:
        assert in_short(Speaks(None)) == "a Speaks"

    def test_one_exception_for_many_items_has_few_notes(self) -> None:
        error = ValueError("no")
        for index in range(100):
            note_item(error, index, "x", owner="Mine")
        assert len(notes(error)) == 8


class Speaks:
    def __init__(self, text: Any) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text is None:
            raise ValueError
        return str(self.text)
