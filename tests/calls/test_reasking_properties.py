"""Whatever models answer: each call ends once, is counted once, and is never paid twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmflow import LLM, Batch, Run, RunStatistics
from llmflow.errors import ContentFilterError, InvalidAnswerError
from llmflow.provider import BatchRow
from llmflow.testing import ScriptedProvider
from llmflow.typed.methods import OutputMethods
from llmflow.types import Request
from tests.batch.fakes import FakeBatchAPI, FakeProvider, FakeServer, answer

Kind = Literal["right", "wrong", "malformed", "cut", "filtered"]
KINDS: tuple[Kind, ...] = ("right", "wrong", "malformed", "cut", "filtered")
TEXTS = {"right": '{"n": 1}', "wrong": '{"n": -1}', "malformed": "one", "cut": '{"n": '}


class Number(pydantic.BaseModel):
    n: int = pydantic.Field(ge=0)


def reply(kind: Kind) -> Any:
    if kind == "filtered":
        return ContentFilterError("no")
    return replace(answer(TEXTS[kind]), finish_reason="length" if kind == "cut" else "stop")


class Scripts:
    """Gives each item its answers in turn, and the last one for ever."""

    def __init__(self, scripts: list[list[Kind]]) -> None:
        self.scripts = scripts
        self.asked: Counter[int] = Counter()

    def kind_of(self, item: int) -> Kind:
        script = self.scripts[item]
        number = self.asked[item]
        self.asked[item] += 1
        return script[min(number, len(script) - 1)]

    def expected(self, item: int, reasks: int) -> tuple[str, int]:
        """Return how an item ends, and after how many requests."""
        script = self.scripts[item]
        for number in range(reasks + 1):
            kind = script[min(number, len(script) - 1)]
            if kind in ("right", "filtered"):
                return kind, number + 1
        return "wrong", reasks + 1


def live(scripts: Scripts) -> LLM[str]:
    def respond(request: Request) -> Any:
        return reply(scripts.kind_of(int(request.messages[0]["content"])))

    return LLM(ScriptedProvider(default=respond), max_tokens=10)


class Results(FakeBatchAPI):
    def read(self, line: bytes) -> BatchRow:
        row = super().read(line)
        if row.response is None or row.response.text != TEXTS["cut"]:
            return row
        return row._replace(response=replace(row.response, finish_reason="length"))


class Jobs(FakeProvider):
    sends = frozenset({"output_schema"})
    outputs = OutputMethods(("prompt", None))

    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.batch = Results(server)

    def encode(self, request: Request) -> Any:
        # The fake server looks at one prompt: the item's, however often it is asked.
        return super().encode(replace(request, messages=request.messages[:1]))


def text_or_error(kind: Kind) -> Any:
    return reply(kind) if kind == "filtered" else TEXTS[kind]


def in_jobs(scripts: Scripts) -> LLM[str]:
    server = FakeServer(fate=lambda prompt, job: text_or_error(scripts.kind_of(int(prompt))))
    return LLM(Jobs(server), max_tokens=10, mode="batch", batch=Batch(quiet=0.005, poll=0.005))


def outcomes(results: Any) -> list[str]:
    found = []
    for each in results:
        if each.error is None:
            assert each.parsed == Number(n=1)
            found.append("right")
        elif isinstance(each.error, InvalidAnswerError):
            assert each.error.response.text in TEXTS.values()
            found.append("wrong")
        else:
            assert isinstance(each.error, ContentFilterError)
            found.append("filtered")
    return found


def tokens_of(results: Any) -> int:
    """Return the tokens that the results say they took."""
    responses = [each.response or getattr(each.error, "response", None) for each in results]
    return sum(each.usage.total_tokens for each in responses if each is not None)


@settings(max_examples=25)
@pytest.mark.parametrize("way", [live, in_jobs])
@given(
    scripts=st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), max_size=8),
    reasks=st.integers(0, 3),
)
def test_every_call_ends_once_and_nothing_is_paid_twice(
    way: Any, scripts: list[list[Kind]], reasks: int
) -> None:
    served = Scripts(scripts)
    expected = [served.expected(item, reasks) for item in range(len(scripts))]
    llm, items = way(served), [f"{n}" for n in range(len(scripts))]

    async def main(folder: Path) -> tuple[list[str], int, RunStatistics]:
        async with Run("scripts", folder=folder) as run:
            results = await llm.map(items, output_type=Number, reasks=reasks)
        return outcomes(results), tokens_of(results), run.statistics()

    with tempfile.TemporaryDirectory() as folder:
        for session in range(2):
            found, tokens, done = asyncio.run(main(Path(folder)))
            assert found == [end for end, _ in expected]
            assert dict(served.asked) == {n: count for n, (_, count) in enumerate(expected)}
            rights = found.count("right")
            assert done.answers == rights == (done.replayed if session else done.answered)
            assert done.failed + done.failed_before == len(items) - rights
            assert (done.failed if session else done.failed_before) == 0
            assert done.reasked == sum(count - 1 for _, count in expected)
            assert (done.in_flight, done.cut) == (0, 0)
            if session:
                assert done.requests == 0
            elif "filtered" not in found:  # whose earlier answers no result has
                assert tokens == done.input_tokens + done.output_tokens
