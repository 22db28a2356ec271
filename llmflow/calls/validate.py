"""Step 1: ask again for an answer that is not accepted."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llmflow.calls.call import Call, Route, Step
from llmflow.calls.judge import Judge, Validate
from llmflow.calls.mode_options import within
from llmflow.errors import BadGenerationError, InvalidAnswerError, ProviderError
from llmflow.types import Request, Response, Usage

if TYPE_CHECKING:
    from llmflow.calls.output_methods import Sent
    from llmflow.calls.session import Session

validating: ContextVar[Validate | None] = ContextVar("llmflow_validate", default=None)
"""What the node around the running code demands of answers."""

_AGAIN: Final = (
    "That answer was not accepted: {}\nAnswer the request again, and mind what was wrong."
)


def validate(session: Session, ask: Step) -> Step:
    """Return the step that judges answers and asks again.

    The steps below know nothing of that: a further request is a call with a key of its own, so
    that journal and cache have the answers as they came, and a resumed run goes on where it was.
    """
    tally, ordinals = session.tally, session.ordinals

    async def step(call: Call) -> Response:
        judge, response = call.judge, call.answer
        if judge is None:
            return await ask(call)
        if response is None:
            # As in `_raw`, without a coroutine between: nearly all answers come so.
            sent = _sent_as(session, call, judge)
            try:
                response = await ask(call)
            except ProviderError as error:
                response = await _recovered(session, ask, call, judge, sent, error)
            else:
                session.refused_rows.answered(sent, response)
        request, refused = call.request, list[Response]()
        while True:
            try:
                accepted = judge.look(response)
            except InvalidAnswerError as error:
                problem = error
            else:
                return together(accepted, refused) if refused else accepted
            further = again(call.request, request, problem, call.route)
            following = None if further is None else call.again(further)
            if following is not None and len(refused) >= judge.reasks:
                goes_on = response.source == "journal" and await ordinals.goes_on(following)
                following = following if goes_on else None
            tally.not_accepted(response, again=following is not None)
            if following is None:
                took = together(response, refused)
                raise _final(problem, request, call.route, took, len(refused) + 1)
            refused.append(response)
            request = following.request
            response = await _raw(session, ask, following, judge)

    return step


async def _raw(session: Session, ask: Step, call: Call, judge: Judge) -> Response:
    """Return an answer as it is, also one that the provider has refused to hand out."""
    sent = _sent_as(session, call, judge)
    try:
        response = await ask(call)
    except ProviderError as error:
        return await _recovered(session, ask, call, judge, sent, error)
    session.refused_rows.answered(sent, response)
    return response


def _sent_as(session: Session, call: Call, judge: Judge) -> Sent | None:
    """Return how a job may take the call's schema; None where a live call asks."""
    # A live call asks otherwise by itself; a job that may take it does not.
    if call.mode_options is None or judge.output is None:
        return None
    return session.refused_rows.sent(call)


async def _recovered(
    session: Session,
    ask: Step,
    call: Call,
    judge: Judge,
    sent: Sent | None,
    error: ProviderError,
) -> Response:
    """Return what was generated, or the answer to a schema that is sent otherwise.

    Raises:
        ProviderError: the error, which says something else.
    """
    if judge.output is None:
        raise error
    if isinstance(error, BadGenerationError):
        return session.tally.generated(error)
    sent = sent or session.refused_rows.sent(call)
    if sent is None or not session.refused_rows.asks_again(sent, error):
        raise error
    session.tally.forgiven(error)
    return await _raw(session, ask, call.again(call.request), judge)


def demanding(judge: Validate | None) -> AbstractContextManager[None]:
    """Have all answers of the block looked at; None changes nothing."""
    return within(validating, judge)


def again(
    first: Request, last: Request, problem: InvalidAnswerError, route: Route
) -> Request | None:
    """Return the next request; None if it would change nothing.

    What was cut off gets twice as many tokens, as far as the model can write so many. Of the
    rest, the model is shown its last answer and what was wrong with it: not those before, so
    that a prompt does not grow with each.

    Args:
        first: what the call asks.
        last: the request with the wrong answer.
        problem: what is wrong with that.
        route: the call's way.
    """
    response = problem.response
    assert response is not None
    if response.is_cut:
        return _longer(last, route)
    told = (
        {"role": "assistant", "content": response.text or "(no text)"},
        {"role": "user", "content": _AGAIN.format(problem.message)},
    )
    return replace(last, messages=(*first.messages, *told))


def together(response: Response, before: list[Response]) -> Response:
    """Return an answer with what the wrong ones before it took.

    Those of another source are left out: what an earlier session has paid, this one has not.
    """
    before = [each for each in before if each.source == response.source]
    if not before:
        return response
    answers = [*before, response]
    costs = [each.cost for each in answers if each.cost is not None]
    return replace(
        response,
        usage=Usage(**{name: _sum(answers, name) for name in Usage.__dataclass_fields__}),
        cost=sum(costs) if costs else None,
        attempts=sum(each.attempts for each in answers),
        waited=sum(each.waited for each in answers),
    )


def _sum(answers: list[Response], name: str) -> int:
    return sum(getattr(each.usage, name) for each in answers)


def _longer(request: Request, route: Route) -> Request | None:
    """Return a request with twice the tokens for its answer, or None."""
    option, bound = _bound(request, route)
    if bound is None:
        return None
    most = _most_written(route)
    more = 2 * bound if most is None else min(2 * bound, most)
    if more <= bound:
        return None
    if option is None:
        return replace(request, max_tokens=more)
    return replace(request, options={**request.options, option: more})


def _bound(request: Request, route: Route) -> tuple[str | None, int | None]:
    """Return the bound of an answer, and its option; the provider's own if none is said."""
    from llmflow.budget.forecast import bound_of

    option, bound = bound_of(request)
    return option, bound or getattr(route.provider, "default_max_tokens", None)


def _most_written(route: Route) -> int | None:
    """Return how many tokens a model writes at the most; None where nobody knows."""
    provider = route.provider
    return _most_of(f"{provider.name}/{provider.model}", route.endpoint or None)


@functools.lru_cache(maxsize=256)
def _most_of(model: str, endpoint: str | None) -> int | None:
    from llmflow.pricing import context_of

    context = context_of(model, base_url=endpoint)
    return None if context is None else context.max_output_tokens or None


def _final(
    problem: InvalidAnswerError, request: Request, route: Route, response: Response, asked: int
) -> InvalidAnswerError:
    """Return the error of a call whose last answer is wrong."""
    problem.response, problem.asked = response, asked
    if response.is_cut:
        _, bound = _bound(request, route)
        most = _most_written(route)
        if bound is None or (most is not None and bound >= most):
            text = "it was cut off at the most that the model writes: ask for less at once"
        else:
            text = f"it was cut off at max_tokens={bound}: raise max_tokens"
        problem.message = text
        problem.args = (text,)
    return problem
