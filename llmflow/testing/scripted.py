"""A provider that answers from a script, without network or key."""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import orjson

from llmflow.errors import InvalidRequestError, ProviderError, UsageError
from llmflow.parts import OutputSchema
from llmflow.retry import Retry
from llmflow.types import Charge, Quota, Request, Response, Usage

if TYPE_CHECKING:
    from llmflow.typed.methods import OutputMethods


class AnswerModel(Protocol):
    """An instance of a pydantic model."""

    def model_dump_json(self) -> str:
        """Return it as JSON."""
        ...


Reply: TypeAlias = str | ProviderError | Response | Mapping[str, Any] | AnswerModel
"""An answer's text, or data or a model that are its JSON; an error to raise; a whole response."""


class ScriptedProvider:
    """A provider whose replies are given beforehand.

    Replies are used up in the order of the calls; then `default` answers. Every
    request is kept in `requests`. A script that is at its end, with no default,
    answers with an `InvalidRequestError` that says so; without a script and a
    default, every answer is ``"ok"``.

    >>> from llmflow import LLM
    >>> from llmflow.errors import OverloadedError
    >>> from llmflow.testing import ScriptedProvider, run_virtual
    >>> provider = ScriptedProvider([OverloadedError("busy"), "Hello."])
    >>> llm = LLM(provider)
    >>> run_virtual(llm.complete("Hi")).attempts
    2

    Output types are asked for as by a server's own schema mode: the schema that a call wants is
    the `output` of its request, and an answer may be given as data.

    Args:
        replies: what to answer, in order.
        default: what to answer when the script is at its end: a reply, or a function
            of the request that makes one; None for an error.
        latency: seconds that each call takes.
        quota: the quota that this provider claims to have.
        retry: the retry policy that it asks for.
        model: the model's name.
        sends: the kinds of parts and outputs that it takes beside texts and output schemas, such
            as ``image``.
    """

    name = "scripted"
    reserves_output = True

    def __init__(
        self,
        replies: Iterable[Reply] = (),
        *,
        default: Reply | Callable[[Request], Reply] | None = None,
        latency: float = 0.0,
        quota: Quota | None = None,
        retry: Retry | None = None,
        model: str = "model",
        sends: Collection[str] = (),
    ) -> None:
        self.model = model
        self.sends = frozenset({OutputSchema.kind, *sends})
        self.default_quota = quota
        self.default_retry = retry
        self.requests: list[Request] = []
        self.in_flight = 0
        self.most_in_flight = 0
        if isinstance(replies, str):
            raise UsageError(f"replies must be a list of replies, such as [{replies[:20]!r}]")
        self._replies = deque(replies)
        self._default = "ok" if default is None and not self._replies else default
        self._scripted = len(self._replies)
        self._latency = latency
        self._domain = object()

    @property
    def domain(self) -> Hashable:
        """A quota domain of its own."""
        return self._domain

    @cached_property
    def outputs(self) -> OutputMethods:
        """Its methods to be asked for JSON: all, the best first."""
        from llmflow.typed.methods import OutputMethods

        return OutputMethods(
            ("json_schema", None), ("tool", None), ("json_object", None), ("prompt", None)
        )

    def prepare(self) -> None:
        """Nothing can be missing."""

    def reserve(self, request: Request) -> Charge:
        """Charge a quarter of the characters, and max_tokens."""
        characters = sum(len(str(message.get("content"))) for message in request.messages)
        prompt = math.ceil(characters / 4)
        output = request.max_tokens or 0
        return Charge(1, prompt + output, prompt, output)

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Charge what was used in the end."""
        return charge._replace(
            tokens=usage.total_tokens,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )

    async def complete(self, request: Request, *, timeout: float) -> Response:  # noqa: ARG002
        """Give the next reply."""
        self.requests.append(request)
        reply = self._next(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self._latency:
                await asyncio.sleep(self._latency)
        finally:
            self.in_flight -= 1
        if isinstance(reply, ProviderError):
            # A copy: one error that many calls raise would mix up their attempts, and
            # grow a traceback for ever.
            raise copy.copy(reply)
        if isinstance(reply, Response):
            return reply
        charge = self.reserve(request)
        text = _written(reply)
        return Response(
            text=text,
            usage=Usage(
                input_tokens=int(charge.input_tokens), output_tokens=math.ceil(len(text) / 4)
            ),
            finish_reason="stop",
            model=self.model,
            provider=self.name,
        )

    def _next(self, request: Request) -> Reply:
        if self._replies:
            return self._replies.popleft()
        if self._default is None:
            return InvalidRequestError(
                f"the script's {self._scripted} replies are used up; give more, or a default=..."
            )
        return self._default(request) if callable(self._default) else self._default


def _written(reply: str | Mapping[str, Any] | AnswerModel) -> str:
    """Return the text of an answer that may be given as data."""
    if isinstance(reply, str):
        return reply
    if isinstance(reply, Mapping):
        return orjson.dumps(dict(reply)).decode()
    return reply.model_dump_json()
