"""The method ``map`` of an LLM."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from llmflow.mapping.sync_methods import ItemT, Row, SyncMappable

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.calls.judge import Validate
    from llmflow.calls.mode_options import Fallback, ModeName
    from llmflow.items.runner import OnError
    from llmflow.mapping.async_map import Answers
    from llmflow.mapping.frames import FrameT, Series
    from llmflow.mapping.prompts import Prompt
    from llmflow.mapping.result import ResultList
    from llmflow.mapping.spec import Asked, Valued
    from llmflow.types import OutputT


class Mappable(SyncMappable):
    """Gives an LLM its methods for many items."""

    __slots__ = ()

    @overload
    def map(
        self: Asked,
        items: FrameT,
        *,
        prompt: str | Callable[[Row], Prompt],
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
        output_type: Any = ...,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> Answers[Row, FrameT]: ...
    @overload
    def map(
        self: Asked,
        items: Series,
        *,
        prompt: str | Callable[[Any], Prompt] | None = ...,
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
        output_type: Any = ...,
        reasks: int | None = ...,
        progress: bool = ...,
        details: bool = ...,
        **fields: Any,
    ) -> Answers[Any, Any]: ...
    @overload
    def map(
        self: Asked,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
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
    ) -> Answers[ItemT, ResultList[ItemT, OutputT], OutputT]: ...
    @overload
    def map(
        self: Valued[OutputT],
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
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
    ) -> Answers[ItemT, ResultList[ItemT, OutputT], OutputT]: ...
    @overload
    def map(
        self: Asked,
        items: Iterable[ItemT] | AsyncIterable[ItemT],
        *,
        prompt: str | Callable[[ItemT], Prompt] | None = ...,
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
    ) -> Answers[ItemT, ResultList[ItemT]]: ...
    def map(
        self: Asked,
        items: Any,
        *_unnamed: Any,
        prompt: Any = None,
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
    ) -> Answers[Any, Any]:
        """Ask for many items at once, at the provider's own speed.

        Iterate to get each `Result` as it comes, with bounded memory: the source is
        read as answers are taken, so it may be endless. Or await it to get all of
        them in the order of the items, as a list; for a pandas, polars or pyarrow frame, as
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
            options: further fields of the body in the provider's dialect, over those of the LLM;
                their names are not checked.
            mode: how these items are answered, in place of what the LLM, the node or the run says;
                see `LLM`, as for the next six.
            deadline: when all is to be answered, such as ``"6h"``.
            fallback: the other way, for what the mode leaves over.
            batch: how calls become jobs. In a run, what was given first for a model counts.
            validate: what is demanded of every answer.
            output_type: what every answer must be, such as a pydantic model; see `complete`. A
                `Result` has the value as `parsed`; a frame gets its fields as typed columns, or
                a column ``response`` for what has no fields.
            reasks: how often an answer that is not accepted is asked for again.
            progress: show on standard error, or in the notebook, how far the map is.
            details: add to a frame the columns ``finish_reason``, ``model``, ``input_tokens``,
                ``output_tokens``, ``cost`` and ``attempts``, before ``error``. A `Result` has
                them in any case, as its `details`.
            **fields: further fields of the body that llmflow knows the provider to have.

        Raises:
            UsageError: an argument is wrong, or the key is missing; raised at once.
            LLMFlowError: while iterating or awaiting: an error that every other item would
                meet, too (its ``fatal`` is true), once all that was answered is handed out;
                `partial_results` gives what an ``await`` had, and a note on the error says
                how many items have no answer.
        """
        from llmflow.mapping.async_map import Answers
        from llmflow.mapping.spec import Given, spec_of, varied

        spec = spec_of(
            varied(self, mode, deadline, fallback, batch, validate, output_type, reasks),
            items,
            _unnamed,
            Given("llm.map(...)", system, max_tokens, temperature, options, fields),
            prompt=prompt,
            concurrency=concurrency,
            ordered=ordered,
            on_error=on_error,
            progress=progress,
            details=details,
        )
        return Answers(spec)
