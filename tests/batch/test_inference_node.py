"""`BatchInferenceNode`: one request for each item, in either mode, with the same results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmflow import LLM, Batch, BatchInferenceNode, Budget, Failure, Price, Run
from llmflow.errors import BudgetExceededError, ContentFilterError, UsageError
from llmflow.types import Response
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)


class Shouts(BatchInferenceNode):
    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    def request(self, item: Any) -> Any:
        return {"prompt": f"{item}", "max_tokens": 5}

    def result(self, item: Any, response: Response) -> Any:
        return item, response.text.split(": ")[1]

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        shared["results"] = exec_res


def llm_at(server: FakeServer, **options: Any) -> LLM:
    return LLM(FakeProvider(server), batch=QUICK, **options)


def ask(node: BatchInferenceNode, items: Any, *, name: str | None = None, **run: Any) -> Any:
    shared = {"items": items}

    async def main() -> None:
        async with Run(name, **run):
            await node.run_async(shared)

    asyncio.run(main())
    return shared["results"]


def test_it_is_the_same_in_both_modes() -> None:
    server = FakeServer()
    in_batch = ask(Shouts(llm=llm_at(server)), range(20))
    assert not server.live
    in_parallel = ask(Shouts(llm=llm_at(server), mode="parallel"), range(20))
    assert in_batch == in_parallel == [(n, str(n)) for n in range(20)]
    assert server.sizes == [20]


def test_items_without_a_length_are_submitted_where_there_is_a_journal() -> None:
    server = FakeServer(fate=lambda p, job: None if p == "3" and job == 1 else f"batch: {p}")

    def items() -> Iterator[int]:
        yield from range(20)

    assert ask(Shouts(llm=llm_at(server)), items(), name="long") == [(n, str(n)) for n in range(20)]
    assert ask(Shouts(llm=llm_at(server)), items(), name="long") == [(n, str(n)) for n in range(20)]
    assert server.sizes == [20, 1]


def test_what_failed_is_a_failure_of_its_item() -> None:
    server = FakeServer(fate=lambda p, job: ContentFilterError("no") if p == "3" else f"batch: {p}")
    node = Shouts(llm=llm_at(server), on_error="collect")
    results = ask(node, iter(range(5)), name="failing")
    assert isinstance(results[3], Failure)
    assert isinstance(results[3].error, ContentFilterError)
    assert server.sizes == [5]


def test_a_budget_ends_it_with_what_was_paid_for() -> None:
    server = FakeServer()
    price = Price(input=10, output=10, batch_input=5, batch_output=5)
    node = Shouts(llm=llm_at(server, price=price), on_error="collect")
    with pytest.raises(BudgetExceededError):
        ask(node, iter(range(50)), name="poor", budget=Budget(usd=0.002))
    assert 0 < len(server.billed) < 50
    assert len(set(server.billed)) == len(server.billed)


def test_without_an_llm_it_says_so() -> None:
    with pytest.raises(UsageError, match="needs an LLM"):
        Shouts()


def test_the_llm_may_be_the_class_s() -> None:
    class Own(Shouts):
        llm = llm_at(FakeServer())

    assert ask(Own(), [1]) == [(1, "1")]


def test_a_request_without_a_prompt_is_named() -> None:
    class Wrong(Shouts):
        def request(self, item: Any) -> Any:
            return {"text": item}

    with pytest.raises(UsageError, match="'prompt'"):
        ask(Wrong(llm=llm_at(FakeServer())), [1])
