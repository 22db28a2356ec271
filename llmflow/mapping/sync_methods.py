"""The method ``map_sync`` of an LLM."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.calls.judge import Validate
    from llmflow.calls.mode_options import Fallback, ModeName
    from llmflow.items.runner import OnError
    from llmflow.mapping.frames import FrameT, Series
    from llmflow.mapping.prompts import Prompt
    from llmflow.mapping.result import ResultList
    from llmflow.mapping.spec import Asked, Valued
    from llmflow.mapping.sync_map import AnswerStream
    from llmflow.types import OutputT

ItemT = TypeVar("ItemT")
Row: TypeAlias = dict[str, Any]


class SyncMappable:
    """Gives an LLM its method for many items in synchronous code."""

    __slots__ = ()

    @overload
    def map_sync(
        self: Asked,
        items: FrameT,
        *,
        prompt: str | Callable[[Row], Prompt],
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: Any = ...,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> FrameT: ...
    @overload
    def map_sync(
        self: Asked,
        items: Series,
        *,
        prompt: str | Callable[[Any], Prompt] | None = ...,
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: Any = ...,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> Any: ...
    @overload
    def map_sync(
        self: Asked,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: type[OutputT],
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> ResultList[ItemT, OutputT]: ...
    @overload
    def map_sync(
        self: Valued[OutputT],
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: None = ...,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> ResultList[ItemT, OutputT]: ...
    @overload
    def map_sync(
        self: Asked,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
        stream: Literal[False] = ...,
        on_error: OnError = ...,
        concurrency: int | None = ...,
        system: str | None = ...,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: Any,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> ResultList[ItemT]: ...
    @overload
    def map_sync(
        self: Asked,
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
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: type[OutputT],
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> AnswerStream[ItemT, OutputT]: ...
    @overload
    def map_sync(
        self: Valued[OutputT],
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
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: None = ...,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> AnswerStream[ItemT, OutputT]: ...
    @overload
    def map_sync(
        self: Asked,
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
        options: Mapping[str, Any] | None = ...,
        mode: ModeName | None = ...,
        deadline: float | str | None = ...,
        fallback: Fallback | None = ...,
        batch: Batch | None = ...,
        validate: Validate | None = ...,
        output_type: Any,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> AnswerStream[ItemT]: ...
    def map_sync(
        self: Asked,
        items: Any,
        *_unnamed: Any,
        prompt: Any = None,
        stream: bool = False,
        ordered: bool = False,
        on_error: OnError = "collect",
        concurrency: int | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
        batch: Batch | None = None,
        validate: Validate | None = None,
        output_type: Any = None,
        reasks: int | None = None,
        progress: bool = False,
        details: bool = False,
        **fields: Any,
    ) -> Any:
        """Ask for many items from synchronous code: scripts and notebooks.

        Returns what ``await llm.map(...)`` does: a list, or a frame of the same kind.
        With ``stream=True``, what ``async for`` gives, to iterate over: each `Result` as
        it comes, with bounded memory. The source is read in the calling thread.

        >>> llm.map_sync(texts, prompt="Summarize: {text}").texts()  # doctest: +SKIP
        ['The tide rises.', 'Snow falls.']
        >>> for result in llm.map_sync(ten_million, stream=True):  # doctest: +SKIP
        ...     out.write(result.text)

        The arguments are those of `map`; `ordered` is the order of a stream, as the rest is
        always in order. With `stream`, iterate instead of waiting for all.

        Raises:
            LLMFlowError: as in `map`.
        """
        from llmflow.mapping.spec import Given, spec_of, varied
        from llmflow.mapping.sync_map import AnswerStream, collect

        spec = spec_of(
            varied(self, mode, deadline, fallback, batch, validate, output_type, reasks),
            items,
            _unnamed,
            Given("llm.map_sync(...)", system, max_tokens, temperature, options, fields),
            prompt=prompt,
            concurrency=concurrency,
            ordered=ordered and stream,
            on_error=on_error,
            progress=progress,
            details=details,
        )
        return AnswerStream(spec) if stream else collect(spec)
