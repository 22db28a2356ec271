"""A ready-made node that sends one request for each item."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Unpack

from llmflow.arguments import checked_arguments
from llmflow.calls.mode_options import ModeName
from llmflow.engine.graph import async_items, each
from llmflow.errors import BudgetExceededError, TooLargeForBudgetError, UsageError
from llmflow.items.idle import MOST_WAITING, yield_slot
from llmflow.items.runner import OnError
from llmflow.llm import LLM
from llmflow.nodes import AsyncNodeOptions, AsyncParallelBatchNode
from llmflow.parts import Parsed
from llmflow.runs.run import current_run
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.llm_asking import Prompt


class BatchInferenceNode(AsyncParallelBatchNode):
    """A node that turns each item into a request and its answer.

    What is done with the requests is the mode's matter: by default they go to the provider's
    batch API; with ``mode="parallel"`` the same node asks them at once. ``prep_async`` and
    ``post_async`` are those of `AsyncParallelBatchNode`, and the results are the same.

    >>> class Labels(BatchInferenceNode):
    ...     async def prep_async(self, shared):
    ...         return shared["texts"]
    ...     def request(self, text):
    ...         return {"prompt": f"Label: {text}", "max_tokens": 5}
    ...     def result(self, text, response):
    ...         return response.text.strip().lower()
    ...     async def post_async(self, shared, prep_res, labels):
    ...         shared["labels"] = labels
    >>> node = Labels(llm="sim/demo", mode="parallel")

    In a `Run` with a name, more items than may wait at once (50,000) need no more memory than
    their results: their requests are written into files as the items come.

    Args:
        llm: what is asked: an `LLM`, or a model such as ``"openai/gpt-6-luna"``. Without it,
            a subclass says it as its attribute ``llm``.
        max_retries: how many attempts each item has, at least 1.
        wait: seconds between two attempts.
        exponential_backoff: double the wait after each attempt.
        max_wait: upper bound of the wait in seconds; None for none.
        concurrency_limit: how many items are worked on at once, in parallel mode; None for all.
        timeout: seconds that one attempt may take, or None.
        on_error: as in `BatchNode`.
        gate: what to pass before each attempt, as in `AsyncNode`.
        mode: ``"batch"``, ``"parallel"`` or ``"auto"``.
        deadline: as in `AsyncNode`.
        fallback: as in `AsyncNode`.
        validate: as in `AsyncNode`.
        output_type: what every answer must be; the results are its values. See `LLM`.
        reasks: how often an item is asked again whose answer is not accepted; None: as the LLM
            says.

    Raises:
        UsageError: there is no LLM, or an argument is out of range.
    """

    llm: LLM[Any] | str | None = None

    @checked_arguments(options=AsyncNodeOptions)
    def __init__(
        self,
        max_retries: int = 1,
        wait: float = 0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        concurrency_limit: int | None = None,
        *,
        llm: LLM[Any] | str | None = None,
        on_error: OnError = "raise",
        mode: ModeName | None = "batch",
        output_type: Any = None,
        reasks: int | None = None,
        **options: Unpack[AsyncNodeOptions],
    ) -> None:
        if isinstance(max_retries, str | LLM):
            raise UsageError(
                f"{type(self).__name__} takes the LLM by name: write {type(self).__name__}(llm=...)"
            )
        super().__init__(
            max_retries,
            wait,
            exponential_backoff,
            max_wait,
            concurrency_limit,
            on_error=on_error,
            mode=mode,
            **options,
        )
        asked = llm if llm is not None else self.llm
        if isinstance(asked, str):
            asked = LLM(asked)
        if not hasattr(asked, "complete"):
            raise UsageError(
                f"{type(self).__name__} needs an LLM: {type(self).__name__}(llm=LLM(...)), or "
                f"an attribute llm of the class; got {asked!r}"
            )
        if isinstance(asked, LLM) and (output_type is not None or reasks is not None):
            asked = asked.varied(output_type=output_type, reasks=reasks)
        self.llm = asked

    def request(self, item: Any, /) -> Prompt | Mapping[str, Any]:
        """Return an item's prompt, or its arguments for `LLM.complete`.

        By default the item itself.
        """
        prompt: Prompt = item
        return prompt

    def result(self, item: Any, response: Response, /) -> Any:  # noqa: ARG002
        """Return an item's result, by default the answer's value or text."""
        is_typed = any(type(each) is Parsed for each in response.outputs)
        return response.parsed if is_typed else response.text

    async def exec_async(self, item: Any, /) -> Any:
        """Ask for one item."""
        assert isinstance(self.llm, LLM)
        return self.result(item, await self.llm.complete(**self._arguments(item)))

    def _arguments(self, item: Any) -> dict[str, Any]:
        request = self.request(item)
        if not isinstance(request, Mapping):
            return {"prompt": request}
        if "prompt" not in request:
            raise UsageError(
                f"{type(self).__name__}.request must return a prompt, or a dict with 'prompt' "
                f"and other arguments of LLM.complete; got the keys {', '.join(map(str, request))}"
            )
        return dict(request)

    async def _exec(self, prep_res: Any) -> Any:
        items = async_items(self, prep_res)
        if not await self._is_better_submitted(items):
            return await super()._exec(items)
        async with aclosing(each(items)) as source:
            items = [item async for item in source]
        await self._submit(items)
        return await super()._exec(items)

    async def _is_better_submitted(self, items: Any) -> bool:
        """Whether the requests go into files first, without a call that waits for each.

        Not inside of another node or flow: what is asked there at the same time belongs into
        the same jobs.
        """
        assert isinstance(self.llm, LLM)
        run, options = current_run(), self.llm.mode_options
        if run is None or run.name is None or yield_slot.get() is not None:
            return False
        if options is None or options.mode != "batch":
            return False
        return not hasattr(items, "__len__") or len(items) > MOST_WAITING

    async def _submit(self, items: list[Any]) -> None:
        """Have all items answered into the run's journal; what failed is met again later."""
        run = current_run()
        assert isinstance(self.llm, LLM)
        assert run is not None
        with contextlib.suppress(BudgetExceededError):  # the ordinary way meets it, too
            for item in items:
                with contextlib.suppress(TooLargeForBudgetError):
                    await self.llm.submit(**self._arguments(item))
        await run.settled()
