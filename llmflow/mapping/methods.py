"""The methods ``map`` and ``map_sync`` of an LLM."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from llmflow.limits import Limiter
    from llmflow.mapping.answers import Answers
    from llmflow.mapping.frames import FrameT, Series
    from llmflow.mapping.prompts import Prompt
    from llmflow.mapping.pump import OnError
    from llmflow.mapping.result import ResultList
    from llmflow.mapping.stream import AnswerStream
    from llmflow.mapping.work import Work
    from llmflow.modes.choice import Choice
    from llmflow.types import Response

ItemT = TypeVar("ItemT")
Row: TypeAlias = dict[str, Any]


class _Callable(Protocol):
    """What a map needs of an LLM."""

    @property
    def limiter(self) -> Limiter:
        """Admission by the quota."""
        ...

    @property
    def choice(self) -> Choice | None:
        """The mode that a call would be in."""
        ...

    def prepare(self) -> None:
        """Check key, model and extras."""

    def complete(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Awaitable[Response]:
        """Ask."""
        ...


class Mappable:
    """Gives an LLM its methods for many items."""

    __slots__ = ()

    @overload
    def map(
        self: _Callable,
        items: FrameT,
        *,
        prompt: str | Callable[[Row], Prompt],
        ordered: bool = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> Answers[Row, FrameT]: ...
    @overload
    def map(
        self: _Callable,
        items: Series,
        *,
        prompt: str | Callable[[Any], Prompt] | None = ...,
        ordered: bool = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> Answers[Any, Any]: ...
    @overload
    def map(
        self: _Callable,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
        ordered: bool = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> Answers[ItemT, ResultList[ItemT]]: ...
    def map(
        self: _Callable,
        items: Any,
        *,
        prompt: Any = None,
        ordered: bool = False,
        on_error: OnError = "collect",
        concurrency: int | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Answers[Any, Any]:
        """Ask for many items at once, at the provider's own speed.

        Iterate to get each `Result` as it comes, with bounded memory: the source is
        read as answers are taken, so it may be endless. Or await it to get all of
        them in the order of the items, as a list; for a pandas or polars frame, as
        a frame of the same kind with the columns ``response`` and ``error``.

        >>> from llmflow import LLM
        >>> from llmflow.testing import ScriptedProvider, run_virtual
        >>> llm = LLM(ScriptedProvider(default=lambda request: "Short."))
        >>> async def main(texts):
        ...     async for result in llm.map(texts, prompt="Summarize: {text}"):
        ...         print(result.index, result.text)
        ...     return (await llm.map(texts, prompt="Shorter: {text}")).texts()
        >>> run_virtual(main(["A long text."]))
        0 Short.
        ['Short.']

        Args:
            items: texts, dicts, or anything else, in an iterable, a generator, an async
                iterable or a frame; prompts, if there is no `prompt`.
            prompt: a template, whose fields a dict fills by its keys and anything else by
                itself; or a function of the item that returns a text or messages.
            ordered: iterate in the order of the items, instead of as completed.
            on_error: with ``"collect"``, a failed item is a `Result` with an `error`; with
                ``"raise"``, the first one cancels what is under way and is raised.
            concurrency: how many items may be under way at once, without those that wait for
                batch jobs (up to 50,000). None: as many as the quota takes; 100 while no
                request limit is known.
            system: as in `complete`, like all that follows.
            max_tokens: upper bound of each answer in tokens.
            temperature: sampling temperature.
            options: further fields of the body in the provider's dialect.

        Raises:
            UsageError: an argument is wrong, or the key is missing; raised at once.
            LLMFlowError: while iterating or awaiting: an error that every other item would
                meet, too (its ``fatal`` is true), once all that was answered is handed out;
                `partial_results` gives what an ``await`` had, and a note on the error says
                how many items have no answer.
        """
        from llmflow.mapping.answers import Answers

        given = {"system": system, "max_tokens": max_tokens, "temperature": temperature, **options}
        return Answers(_work(self, given, items, prompt, concurrency, ordered, on_error))

    @overload
    def map_sync(
        self: _Callable,
        items: FrameT,
        *,
        prompt: str | Callable[[Row], Prompt],
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> FrameT: ...
    @overload
    def map_sync(
        self: _Callable,
        items: Series,
        *,
        prompt: str | Callable[[Any], Prompt] | None = ...,
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> Any: ...
    @overload
    def map_sync(
        self: _Callable,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> ResultList[ItemT]: ...
    @overload
    def map_sync(
        self: _Callable,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
        stream: Literal[True],
        ordered: bool = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        **options: Any,
    ) -> AnswerStream[ItemT]: ...
    def map_sync(
        self: _Callable,
        items: Any,
        *,
        prompt: Any = None,
        stream: bool = False,
        ordered: bool = False,
        on_error: OnError = "collect",
        concurrency: int | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Any:
        """Ask for many items from code that is not asynchronous: a script, or a notebook.

        Returns what ``await llm.map(...)`` does: a list, or a frame of the same kind.
        With ``stream=True``, what ``async for`` gives, to iterate over: each `Result` as
        it comes, with bounded memory. The source is read in the calling thread.

        >>> llm.map_sync(texts, prompt="Summarize: {text}").texts()  # doctest: +SKIP
        ['The tide rises.', 'Snow falls.']
        >>> for result in llm.map_sync(ten_million, stream=True):  # doctest: +SKIP
        ...     out.write(result.text)

        Args:
            items: as in `map`.
            prompt: as in `map`.
            stream: iterate instead of waiting for all.
            ordered: the order of a stream, as in `map`; the rest is always in order.
            on_error: as in `map`, like all that follows.
            concurrency: how many items may be under way at once.
            system: instructions for every item.
            max_tokens: upper bound of each answer in tokens.
            temperature: sampling temperature.
            options: further fields of the body in the provider's dialect.

        Raises:
            LLMFlowError: as in `map`.
        """
        from llmflow.mapping.stream import AnswerStream, collect

        given = {"system": system, "max_tokens": max_tokens, "temperature": temperature, **options}
        work = _work(self, given, items, prompt, concurrency, ordered and stream, on_error)
        return AnswerStream(work) if stream else collect(work)


def _work(
    llm: _Callable,
    given: dict[str, Any],
    items: Any,
    prompt: Any,
    concurrency: int | None,
    ordered: bool,
    on_error: OnError,
) -> Work:
    from llmflow.batch.live import MOST_WAITING
    from llmflow.mapping.work import DEFAULT_CONCURRENCY, Work
    from llmflow.transport import connection_limit

    if concurrency is None and llm.choice is not None and llm.choice.mode != "parallel":
        concurrency = MOST_WAITING
    elif concurrency is None:
        # With a known quota the limiter paces; without, a modest number is what protects.
        concurrency = connection_limit() if llm.limiter.quota.rpm else DEFAULT_CONCURRENCY
    llm.prepare()

    def ask(prompt: Any) -> Awaitable[Response]:
        return llm.complete(prompt, **given)

    return Work(
        ask=ask,
        items=items,
        prompt=prompt,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
    )
