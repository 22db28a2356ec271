"""The quota of a day is used up, said in every form in use: the end, or a wait, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from llmflow import LLM, Retry, Run
from llmflow.errors import QuotaExhaustedError
from llmflow.limits.registry import forget_limiters
from tests.odd_server import EVERY_CLIENT, Asked, Odd, OddServer, odd_server, whole

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", EVERY_CLIENT)]

Form = Callable[[float], tuple[dict[str, str], dict[str, Any]]]
"""Makes headers and an error out of the instant at which the quota is back."""

DAILY = "You have used up your daily quota."


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def inside(name: str, value: str) -> dict[str, Any]:
    return {"message": DAILY, "code": 429, "metadata": {"headers": {name: value}}}


def left(back: float) -> int:
    return round(back - time.time())


FORMS: dict[str, Form] = {
    "seconds": lambda back: ({"retry-after": str(left(back))}, {"message": DAILY}),
    "epoch": lambda back: ({"retry-after": str(int(back))}, {"message": DAILY}),
    "epoch in ms": lambda back: ({"retry-after": str(int(back * 1000))}, {"message": DAILY}),
    "ISO date": lambda back: ({"retry-after": iso(back)}, {"message": DAILY}),
    "duration": lambda back: ({"retry-after": f"{left(back)}.07s"}, {"message": DAILY}),
    "h, m and s": lambda back: (
        {"retry-after": f"{left(back) // 3600}h{left(back) % 3600 // 60}m{left(back) % 60}s"},
        {"message": DAILY},
    ),
    "words": lambda back: ({}, {"message": f"{DAILY} Try again in {left(back)} seconds."}),
    "minutes": lambda back: ({}, {"message": f"{DAILY} Wait {left(back) / 60:.2f} minutes."}),
    "words and hours": lambda back: (
        {},
        {"message": f"{DAILY} Please retry after {left(back) / 3600:.4f} hours."},
    ),
    "ISO in words": lambda back: ({}, {"message": f"{DAILY} It resets at {iso(back)}"}),
    "only in the body": lambda back: ({}, inside("X-RateLimit-Reset", str(int(back * 1000)))),
    "only in the body, as a date": lambda back: ({}, inside("Retry-After", iso(back))),
    "a field": lambda back: ({}, {"message": DAILY, "retry_after": left(back)}),
}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forget_limiters()


def llm_for(server: OddServer, dialect: str, patience: float) -> LLM:
    retry = Retry(attempts=2, wait_initial=0.001, daily_limit_patience=patience)
    return LLM(
        f"{dialect}/m", base_url=server.url(dialect), api_key="sk-odd-1", max_tokens=9, retry=retry
    )


def used_up(form: Form, seconds: float, *, after: int) -> Callable[[Asked], Odd]:
    """Return a rule by which the quota is used up for some seconds after some answers."""
    back = 0.0

    def rule(asked: Asked) -> Odd:
        nonlocal back
        if asked.total == after + 1:
            back = time.time() + seconds
        if asked.total <= after or time.time() >= back - 1:
            return whole(asked)
        headers, error = form(back)
        return Odd({"error": {"type": "rate_limit_error", **error}}, 429, headers)

    return rule


@pytest.mark.parametrize("name", FORMS)
def test_it_ends_the_run_with_the_time_at_which_it_is_back(name: str, dialect: str) -> None:
    seconds = 5 * 3600.0
    with odd_server(used_up(FORMS[name], seconds, after=3)) as server:
        llm = llm_for(server, dialect, 0.0)
        began = time.time()
        with pytest.raises(QuotaExhaustedError) as caught, Run():
            llm.map_sync([f"row {number}" for number in range(50)], concurrency=1)
        assert len(server.asked) == 4, "nobody else finds out by asking"
    said = str(caught.value).partition("back at ")[2].partition(" UTC")[0]
    back = datetime.strptime(said, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()
    assert back == pytest.approx(began + seconds, abs=150)


@pytest.mark.parametrize("name", ["epoch", "words", "only in the body"])
def test_it_is_waited_for_within_the_patience(name: str, dialect: str) -> None:
    prompts = [f"row {number}" for number in range(6)]
    with odd_server(used_up(FORMS[name], 2.0, after=3)) as server:
        llm = llm_for(server, dialect, 60.0)
        results = llm.map_sync(prompts, concurrency=1)
        assert [each.text for each in results] == [f"re: {prompt}" for prompt in prompts]
        # A refusal that is counted in whole seconds may be one too early.
        assert len(server.asked) <= 9
