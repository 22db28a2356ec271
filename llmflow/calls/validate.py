"""Step 1: ask once more for an answer that is not accepted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, TypeAlias

from llmflow.calls.call import Call, Step
from llmflow.calls.mode_options import within
from llmflow.errors import ConfigurationError, InvalidAnswerError
from llmflow.types import Request, Response

Validate: TypeAlias = Callable[[Response], Any]
"""Looks at an answer. It raises, or returns False, if that is not accepted."""

validating: ContextVar[Validate | None] = ContextVar("llmflow_validate", default=None)
"""What the node around the running code demands of answers."""

_MOST_CHARACTERS: Final = 1000
_AGAIN: Final = (
    "That answer was not accepted: {}\nAnswer the request again, and mind what was wrong."
)


def validate(ask: Step) -> Step:
    """Return the step that validates answers and asks once more."""

    async def step(call: Call) -> Response:
        response, judge = await ask(call), call.validate
        if judge is None:
            return response
        problem = problem_of(response, judge)
        if problem is None:
            return response
        second = again(call.request, problem)
        if second is None:
            raise problem
        response = await ask(call.again(second))
        if (problem := problem_of(response, judge)) is not None:
            raise problem
        return response

    return step


def checked_validate(function: Any) -> Validate | None:
    """Return what looks at answers.

    Raises:
        ConfigurationError: it cannot be called.
    """
    if function is not None and not callable(function):
        raise ConfigurationError(
            "validate must be a function of a Response that raises, or returns False, for what is "
            f"not accepted; got {function!r}"
        )
    return None if function is None else function


def demanding(judge: Validate | None) -> AbstractContextManager[None]:
    """Have all answers of the block looked at; None changes nothing."""
    return within(validating, judge)


def problem_of(response: Response, judge: Validate) -> InvalidAnswerError | None:
    """Return what is wrong with an answer, or None."""
    if response.finish_reason == "length":
        return InvalidAnswerError("it was cut off at max_tokens", response=response)
    try:
        accepted = judge(response)
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        text = str(error)[:_MOST_CHARACTERS] or type(error).__name__
        return InvalidAnswerError(text, response=response, cause=error)
    if accepted is False:
        return InvalidAnswerError("it is not what was asked for", response=response)
    return None


def again(request: Request, problem: InvalidAnswerError) -> Request | None:
    """Return the second request; None if it would change nothing.

    What was cut off gets twice as many tokens. Of the rest, the model is shown its answer and
    what was wrong with it.
    """
    response = problem.response
    assert response is not None
    if response.finish_reason == "length":
        most = request.max_tokens
        return None if most is None else replace(request, max_tokens=2 * most)
    told = (
        {"role": "assistant", "content": response.text or "(no text)"},
        {"role": "user", "content": _AGAIN.format(problem.message)},
    )
    return replace(request, messages=(*request.messages, *told))
