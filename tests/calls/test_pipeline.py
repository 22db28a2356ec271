"""The steps of a call: each is one function, and others may be put between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llmflow import LLM, Run
from llmflow.calls.budget import budget
from llmflow.calls.cached import cached
from llmflow.calls.call import Call, Route, Step
from llmflow.calls.coalesce import coalesce
from llmflow.calls.live import send
from llmflow.calls.recording import record
from llmflow.calls.replay import replay
from llmflow.calls.session import Session
from llmflow.calls.validate import validate
from llmflow.errors import ContextLengthError, ProviderError, UsageError
from llmflow.testing import ScriptedProvider
from llmflow.types import Response


@contextmanager
def opened(folder: Path) -> Iterator[Session]:
    with Run("pool", folder=folder) as run:
        yield run.session


def pool(members: list[Route], ask: Step) -> Step:
    """Ask the first member, and the next one where it fails."""

    async def step(call: Call) -> Response:
        for number, member in enumerate(members, 1):
            call.route = member
            try:
                return await ask(call)
            except ProviderError:
                if number == len(members):
                    raise
        raise UsageError("a pool needs a member")

    return step


def pooled(session: Session, members: list[Route]) -> Step:
    """Return the pipeline of a pool: what is known or shared is so for all of its members."""
    each = cached(budget(session, send(session)))
    whole = record(session, pool(members, each))
    known = replay(session.ordinals, session.tally.outcome, coalesce(session, whole))
    return validate(session, session.tally.counting(known))


def routes(*scripts: list[str | ProviderError]) -> list[Route]:
    return [
        LLM(ScriptedProvider(script, model=f"member-{number}")).call_for("")[1].route
        for number, script in enumerate(scripts)
    ]


def asked(session: Session, members: list[Route], times: int = 1) -> list[Response]:
    request = replace(LLM(members[0].provider).call_for("Hi")[1].request, temperature=0.0)

    async def main() -> list[Response]:
        ask = pooled(session, members)
        calls = [ask(Call(request, members[0], shares=True)) for _ in range(times)]
        return list(await asyncio.gather(*calls))

    return asyncio.run(main())


def test_a_pool_stands_above_the_steps_of_its_members(tmp_path: Path) -> None:
    members = routes([ContextLengthError("too long")], ["from the second"])
    with opened(tmp_path) as session:
        first, second = asked(session, members, times=2)
        assert session.tally.statistics().answered == 1
    assert first.text == second.text == "from the second"
    assert first.model == "member-1", "and it is known who has answered"
    assert (first.source, second.source) == ("provider", "shared")
    with opened(tmp_path) as session:
        again = asked(session, members)
    assert (again[0].source, again[0].model) == ("journal", "member-1")


def test_a_pool_fails_with_its_last_member(tmp_path: Path) -> None:
    members = routes([ContextLengthError("one")], [ContextLengthError("two")])
    with opened(tmp_path) as session, pytest.raises(ContextLengthError, match="two"):
        asked(session, members)
    with opened(tmp_path) as session, pytest.raises(ContextLengthError, match="two") as caught:
        asked(session, members)
    assert caught.value.source == "journal"
