"""The methods of an LLM for one call."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, overload

from llmflow.background import background
from llmflow.batch.modes import open_session
from llmflow.call_options import (
    as_messages,
    check_beside_output,
    checked_max_tokens,
    checked_output,
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
from llmflow.types import AnswerT, OutputT, Request, Response

if TYPE_CHECKING:
    from llmflow.typed.output_type import OutputType

_outside: Final = open_session()
"""For calls that belong to no run."""

Arguments: TypeAlias = tuple[Any, Any, Any, Any]
"""System, max_tokens, temperature and options of a call, checked."""
_NONE: Final[Arguments] = (None, None, None, None)
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with ``role`` and ``content``."""


class Asking(Generic[AnswerT]):
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
    _output: OutputType | None

    if TYPE_CHECKING:  # of an answer as data: what `mapping.spec.Valued` has from this

        @overload
        def _value_type(self: Asking[str]) -> Any: ...
        @overload
        def _value_type(self) -> AnswerT: ...
        def _value_type(self) -> Any: ...

    @property
    def run_around(self) -> Run | None:
        """The run that a call here belongs to, or None."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Check key, model and extras now."""
        raise NotImplementedError

    @overload
    async def __call__(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: None = ...,
        **fields: Any,
    ) -> AnswerT: ...
    @overload
    async def __call__(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: type[OutputT],
        **fields: Any,
    ) -> OutputT: ...
    @overload
    async def __call__(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: Any,
        **fields: Any,
    ) -> Any: ...
    async def __call__(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        output_type: Any = None,
        **fields: Any,
    ) -> Any:
        """Ask, and return the answer's text, or its value with an `output_type`.

        Arguments and errors as in `complete`.
        """
        output = self._output if output_type is None else checked_output(output_type)
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, output=output
        )
        response = await self._answer(request, output)
        return response.text if output is None else response.parsed

    @overload
    async def complete(
        self: Asking[str],
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: None = ...,
        **fields: Any,
    ) -> Response: ...
    @overload
    async def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: None = ...,
        **fields: Any,
    ) -> Response[AnswerT]: ...
    @overload
    async def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: type[OutputT],
        **fields: Any,
    ) -> Response[OutputT]: ...
    @overload
    async def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: Any,
        **fields: Any,
    ) -> Response: ...
    async def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        output_type: Any = None,
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
            output_type: what the answer must be, in place of the object's: a pydantic model,
                dataclass, TypedDict, ``Literal``, enum, ``list[...]``, ``int``, union or any
                other type that pydantic knows, or a JSON schema as a dict. The provider is told,
                in the way it can be, and `Response.parsed` is the value.
            **fields: the same for fields that llmflow knows the provider to have, such as
                ``top_p=0.9``.

        Raises:
            ProviderError: the call failed for good; the class says why.
            InvalidAnswerError: the answer is not of the `output_type`, or `validate` does not
                accept it, and so are those to `reasks` further requests.
            UsageError: an argument or a setting is wrong.
        """
        output = self._output if output_type is None else checked_output(output_type)
        place = "llm.complete(...)"
        return await self._answer(
            self._request(prompt, system, max_tokens, temperature, options, fields, place, output),
            output,
        )

    @overload
    def run(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: None = ...,
        **fields: Any,
    ) -> AnswerT: ...
    @overload
    def run(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: type[OutputT],
        **fields: Any,
    ) -> OutputT: ...
    @overload
    def run(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: Any,
        **fields: Any,
    ) -> Any: ...
    def run(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        output_type: Any = None,
        **fields: Any,
    ) -> Any:
        """Ask as ``await llm(...)`` does, from code that is not asynchronous.

        >>> from llmflow import LLM
        >>> llm = LLM("sim/demo")
        >>> llm.run("Summarize: The tide rises. The tide falls.")  # doctest: +SKIP
        'The tide rises.'
        """
        output = self._output if output_type is None else checked_output(output_type)
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, "llm.run(...)", output
        )
        response = background.run(lambda: self._answer(request, output), instead="await llm(...)")
        return response.text if output is None else response.parsed

    @overload
    def complete_sync(
        self: Asking[str],
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: None = ...,
        **fields: Any,
    ) -> Response: ...
    @overload
    def complete_sync(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: None = ...,
        **fields: Any,
    ) -> Response[AnswerT]: ...
    @overload
    def complete_sync(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: type[OutputT],
        **fields: Any,
    ) -> Response[OutputT]: ...
    @overload
    def complete_sync(
        self,
        prompt: Prompt,
        *,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        output_type: Any,
        **fields: Any,
    ) -> Response: ...
    def complete_sync(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        output_type: Any = None,
        **fields: Any,
    ) -> Response:
        """Ask from code that is not asynchronous, and return the whole `Response`."""
        output = self._output if output_type is None else checked_output(output_type)
        place = "llm.complete_sync(...)"
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, place, output
        )
        return background.run(
            lambda: self._answer(request, output), instead="await llm.complete(...)"
        )

    async def submit(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        output_type: Any = None,
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
        output = self._output if output_type is None else checked_output(output_type)
        request = self._request(
            prompt, system, max_tokens, temperature, options, fields, "llm.submit(...)", output
        )
        return await run.session.submit(self._call(request, wanted=False)[1])

    def call_for(
        self, prompt: Prompt, arguments: Arguments = _NONE, *, wanted: bool = True
    ) -> tuple[Session, Call]:
        """Return an unasked call, and the session that asks it."""
        output = self._output
        request = self._request(prompt, *arguments, {}, output=output)
        return self._call(request, output, wanted=wanted)

    def _answer(self, request: Request, output: OutputType | None) -> Coroutine[Any, Any, Response]:
        session, call = self._call(request, output)
        return session.ask(call)

    def _call(
        self, request: Request, output: OutputType | None = None, *, wanted: bool = True
    ) -> tuple[Session, Call]:
        session = current_session() or (_outside if self._run is None else self._run.session)
        session.check()
        options = self._route.mode_options or current_mode.get() or session.mode_options
        if not wanted:
            options = options or ModeOptions(mode="batch")
        elif options is not None and options.mode == "parallel" and options.fallback is None:
            options = None  # as if nobody had chosen
        validate = self.validate or validating.get() if wanted else None
        judge = None
        if validate is not None or (output is not None and wanted):
            judge = self._judge_of(validate, output)
        shares = request.temperature == 0 if self._shares is None else self._shares
        return session, Call(
            request,
            self._route,
            mode_options=options,
            judge=judge,
            wanted=wanted,
            shares=shares,
        )

    def _judge_of(self, validate: Validate | None, output: OutputType | None) -> Judge:
        """Return what looks at answers, made once for many calls."""
        judge = self._judge
        if (
            judge.output is not output
            or judge.validate is not validate
            or judge.reasks != self.reasks
        ):
            judge = Judge(validate=validate, output=output, reasks=self.reasks)
            self._judge = judge
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
        output: OutputType | None = None,
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
        if output is not None and further:
            check_beside_output(further, self.provider, output)
        request = Request(
            model=self.provider.model,
            messages=({"role": "user", "content": prompt},) if is_text else as_messages(prompt),
            system=self.system if system is None else system,
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            temperature=self.temperature if temperature is None else temperature,
            options=further,
            wanted=() if output is None else (output.output,),
        )
        return request if is_text and output is None else sendable(request, self.provider)


for _method in (Asking.__call__, Asking.complete, Asking.submit):
    _method.__qualname__ = f"LLM.{_method.__name__}"  # the name of their coroutines, in messages
