"""The methods of an LLM for one call."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeAlias

from llmflow.background import background
from llmflow.batch.modes import open_session
from llmflow.call_options import (
    as_messages,
    checked_max_tokens,
    checked_temperature,
    merged_options,
    sendable,
)
from llmflow.calls.call import Call, Route
from llmflow.calls.judge import Judge, Validate
from llmflow.calls.mode_options import ModeOptions, current_mode
from llmflow.calls.session import Session, current_session
from llmflow.calls.validate import validating
from llmflow.errors import UsageError
from llmflow.provider import Provider
from llmflow.runs.run import Run
from llmflow.types import Request, Response

_outside: Final = open_session()
"""For calls that belong to no run."""

Arguments: TypeAlias = tuple[Any, Any, Any, Any]
"""System, max_tokens, temperature and options of a call, checked."""
_NONE: Final[Arguments] = (None, None, None, None)
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with ``role`` and ``content``."""


class Asking:
    """Gives an LLM its methods for one call."""

    provider: Provider
    system: str | None
    max_tokens: int | None
    temperature: float | None
    options: Mapping[str, Any]
    known_options: frozenset[str] | None
    validate: Validate | None
    reasks: int
    _route: Route
    _run: Run | None
    _shares: bool | None
    _prepared: bool
    _judge: Judge

    @property
    def run_around(self) -> Run | None:
        """The run that a call here belongs to, or None."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Check key, model and extras now."""
        raise NotImplementedError

    async def __call__(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """Ask, and return the answer's text. Arguments and errors as in `complete`."""
        request = self._request(prompt, system, max_tokens, temperature, options, fields)
        return (await self._answer(request)).text

    async def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Response:
        """Ask, and return the whole `Response`: text, usage, finish reason, cost, attempts.

        Args:
            prompt: a text, or chat messages with ``role`` and ``content``.
            system: instructions, instead of the object's.
            max_tokens: upper bound of the answer in tokens, instead of the object's.
            temperature: sampling temperature, instead of the object's.
            options: further fields of the body in the provider's dialect, over those of the
                object; their names are not checked.
            **fields: the same for fields that llmflow knows the provider to have, such as
                ``top_p=0.9``.

        Raises:
            ProviderError: the call failed for good; the class says why.
            InvalidAnswerError: `validate` accepts neither this answer nor the next.
            UsageError: an argument or a setting is wrong.
        """
        return await self._answer(
            self._request(
                prompt, system, max_tokens, temperature, options, fields, "llm.complete(...)"
            )
        )

    def run(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """Ask from code that is not asynchronous, and return the answer's text.

        >>> llm = LLM("sim/demo")
        >>> llm.run("Summarize: The tide rises. The tide falls.")  # doctest: +SKIP
        'The tide rises.'
        """
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, "llm.run(...)"
        )
        return background.run(lambda: self._answer(request), instead="await llm(...)").text

    def complete_sync(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Response:
        """Ask from code that is not asynchronous, and return the whole `Response`."""
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, "llm.complete_sync(...)"
        )
        return background.run(lambda: self._answer(request), instead="await llm.complete(...)")

    async def submit(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> bool:
        """Have a batch job answer, without waiting; arguments as in `complete`.

        The answer comes into the journal of the `Run` around the call: whoever asks the same
        there later, in this session or another, has it at once and at no cost.

        >>> async def main(texts):
        ...     async with Run("tonight", mode="batch") as run:
        ...         for text in texts:
        ...             await llm.submit(f"Summarize: {text}")
        ...         await run.submitted()

        Returns:
            Whether it is asked; not if its outcome is known already.

        Raises:
            UsageError: there is no run with a name around the call.
            BatchUnsupportedError: the provider has no batch API.
            BudgetExceededError: it does not fit into what is left of the run's budget.
        """
        run = self.run_around
        if run is None:
            raise UsageError('submit needs a run around it: async with Run("name"): ...')
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, "llm.submit(...)"
        )
        return await run.session.submit(self._call(request, wanted=False)[1])

    def call_for(
        self, prompt: Prompt, arguments: Arguments = _NONE, *, wanted: bool = True
    ) -> tuple[Session, Call]:
        """Return an unasked call, and the session that asks it."""
        return self._call(self._request(prompt, *arguments, {}), wanted=wanted)

    def _answer(self, request: Request) -> Coroutine[Any, Any, Response]:
        session, call = self._call(request)
        return session.ask(call)

    def _call(self, request: Request, *, wanted: bool = True) -> tuple[Session, Call]:
        session = current_session() or (_outside if self._run is None else self._run.session)
        session.check()
        options = self._route.mode_options or current_mode.get() or session.mode_options
        if not wanted:
            options = options or ModeOptions(mode="batch")
        elif options is not None and options.mode == "parallel" and options.fallback is None:
            options = None  # as if nobody had chosen
        validate = self.validate or validating.get() if wanted else None
        judge = None if validate is None else self._judge_of(validate)
        shares = request.temperature == 0 if self._shares is None else self._shares
        return session, Call(
            request,
            self._route,
            mode_options=options,
            judge=judge,
            wanted=wanted,
            shares=shares,
        )

    def _judge_of(self, validate: Validate | None) -> Judge:
        """Return what looks at answers, made once for many calls."""
        judge = self._judge
        if judge.validate is not validate or judge.reasks != self.reasks:
            judge = self._judge = Judge(validate=validate, reasks=self.reasks)
        return judge

    def _request(
        self,
        prompt: Prompt,
        system: str | None,
        max_tokens: int | None,
        temperature: float | None,
        options: Mapping[str, Any] | None,
        fields: Mapping[str, Any],
        place: str = "llm(...)",
    ) -> Request:
        if not self._prepared:
            self.prepare()
        if max_tokens is not None:
            checked_max_tokens(max_tokens)
        if temperature is not None:
            checked_temperature(temperature)
        further: Mapping[str, Any] = self.options
        if fields or options is not None:
            further = merged_options(
                further, options, fields, known=self.known_options, place=place
            )
        is_text = isinstance(prompt, str)  # as nearly all are
        request = Request(
            model=self.provider.model,
            messages=({"role": "user", "content": prompt},) if is_text else as_messages(prompt),
            system=self.system if system is None else system,
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            temperature=self.temperature if temperature is None else temperature,
            options=further,
        )
        return request if is_text else sendable(request, self.provider)


for _method in (Asking.__call__, Asking.complete, Asking.submit):
    _method.__qualname__ = f"LLM.{_method.__name__}"  # the name of their coroutines, in messages
