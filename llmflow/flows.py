"""Flows: graphs of nodes, run once, in sequence or in parallel.

A flow is a node too, so flows nest. Every node of a run sees the same ``shared``
object, and branches that run at once see it at the same time: give each branch a
key of its own (``shared["summary"][self.params["name"]] = ...``), keep what only
one branch needs in ``self.params``, which every branch has for itself, and never
count on a value staying the same across an ``await``.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from contextlib import aclosing
from typing import Any, TypeVar

from llmflow.arguments import checked_arguments
from llmflow.calls.mode_options import Fallback, ModeName, as_mode_options, use_mode
from llmflow.engine.graph import (
    BaseNode,
    async_items,
    check_node,
    checked_sync,
    each,
    sync_items,
    warn_of_turns,
    warn_user,
)
from llmflow.engine.pool import Attempt, run_pool
from llmflow.engine.results import Results
from llmflow.errors import ActionError, StepLimitError
from llmflow.failure_notes import note_node
from llmflow.items.runner import OnError, check_on_error, concerns_all
from llmflow.items.slots import ConcurrencyLimit, Slots, check_limit
from llmflow.nodes import AsyncNode

DEFAULT_MAX_STEPS = 100_000

_StartNode = TypeVar("_StartNode", bound=BaseNode)


def _note(error: Exception, node: BaseNode) -> None:
    if not concerns_all(error):
        note_node(error, owner=type(node).__name__, params=node.params)


class Flow(BaseNode):
    """Runs nodes one after another, each chosen by the last action.

    The flow ends at a node without successors, at ``None``, or, with a warning,
    at an action that has no successor. The last action is what ``post`` gets as
    ``exec_res`` and, by default, what the flow itself returns, so that an inner
    flow chooses the outer flow's next node.

    >>> class Count(BaseNode):
    ...     def post(self, shared, prep_res, exec_res):
    ...         shared["n"] += 1
    ...         return "again" if shared["n"] < 3 else "done"
    >>> count = Count()
    >>> _ = count - "again" >> count
    >>> count - "done" >> None
    >>> shared = {"n": 0}
    >>> Flow(start=count).run(shared)
    'done'
    >>> shared["n"]
    3

    Args:
        start: the first node.
        max_steps: how many nodes one run may go through, against endless cycles;
            None for no bound.

    Raises:
        UsageError: max_steps is not a whole number from 1 up.

    """

    start_node: BaseNode | None

    @checked_arguments()
    def __init__(
        self, start: BaseNode | None = None, *, max_steps: int | None = DEFAULT_MAX_STEPS
    ) -> None:
        super().__init__()
        check_node(start)
        self.start_node = start
        self._max_steps = check_limit(max_steps, "max_steps")

    def start(self, start: _StartNode) -> _StartNode:
        """Set the first node, and return it, for chaining."""
        check_node(start)
        self.start_node = start
        return start

    def get_next_node(self, curr: BaseNode, action: Any) -> BaseNode | None:
        """Return the node after this action, or None at the end."""
        if not curr.successors:
            return None
        if not isinstance(action, Hashable):
            raise ActionError(
                f"{type(curr).__name__} returned {type(action).__name__} {action!r:.80} from post, "
                "where the next node is chosen: return an action (a string) or None, and put "
                "data into the shared store"
            )
        key = action or "default"
        if key not in curr.successors:
            warn_user(f"Flow ends: '{action}' not found in {list(curr.successors)}")
        return curr.successors.get(key)

    def post(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:  # noqa: ARG002
        """Return the last action, for the flow around this one."""
        return exec_res

    def _visit(self, node: BaseNode, step: int, params: dict[str, Any]) -> BaseNode:
        """Return the copy of a node that one visit runs."""
        if self._max_steps is not None and step > self._max_steps:
            raise StepLimitError(
                f"{type(self).__name__} went through {self._max_steps} nodes, and "
                f"{type(node).__name__} would be next: probably an endless cycle. If the flow is "
                f"meant to go on, give it a higher max_steps, or max_steps=None for no bound."
            )
        visited = copy.copy(node)
        visited.set_params(params)
        return visited

    def _orch(self, shared: Any, params: dict[str, Any] | None = None) -> Any:
        params = params or {**self.params}
        node, step, action = self.start_node, 0, None
        while node is not None:
            step += 1
            visited = self._visit(node, step, params)
            try:
                action = visited._run(shared)
            except Exception as error:
                _note(error, visited)
                raise
            node = self.get_next_node(visited, action)
        return action

    async def _orch_async(self, shared: Any, params: dict[str, Any] | None = None) -> Any:
        params = params or {**self.params}
        node, step, action = self.start_node, 0, None
        while node is not None:
            step += 1
            visited = self._visit(node, step, params)
            try:
                action = await visited._run_in_async_flow(shared)
            except Exception as error:
                _note(error, visited)
                raise
            node = self.get_next_node(visited, action)
        return action

    def _run(self, shared: Any) -> Any:
        prep_res = checked_sync(self, "prep", self.prep(shared))
        post = self.post(shared, prep_res, self._orch(shared))
        return checked_sync(self, "post", post)

    async def _run_in_async_flow(self, shared: Any) -> Any:
        prep_res = checked_sync(self, "prep", self.prep(shared))
        post = self.post(shared, prep_res, await self._orch_async(shared))
        return checked_sync(self, "post", post)


class BatchFlow(Flow):
    """Runs the flow once for each parameter dict of ``prep``, in turn.

    Nodes read them as ``self.params``, together with the flow's own. ``post`` gets
    None as ``exec_res``; ``self.last_results`` has the last action of each run in
    input order. What the last node of the flow returns can be any object, so a
    run can hand out a result in this way, apart from the shared store.

    >>> class Length(BaseNode):
    ...     def post(self, shared, prep_res, exec_res):
    ...         return len(self.params["text"])
    >>> class Lengths(BatchFlow):
    ...     def prep(self, shared):
    ...         return [{"text": text} for text in shared["texts"]]
    ...     def post(self, shared, prep_res, exec_res):
    ...         shared["lengths"] = self.last_results
    >>> shared = {"texts": ["a", "bcd"]}
    >>> Lengths(start=Length()).run(shared)
    >>> shared["lengths"]
    [1, 3]

    The arguments are those of `Flow`, and `on_error` as in `BatchNode`.
    """

    last_results: list[Any]
    """The last action of each run, in input order, once all have ended."""

    @checked_arguments()
    def __init__(
        self,
        start: BaseNode | None = None,
        *,
        max_steps: int | None = DEFAULT_MAX_STEPS,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(start, max_steps=max_steps)
        self._on_error: OnError = check_on_error(on_error)
        self.last_results = []

    def _run(self, shared: Any) -> Any:
        prep_res = checked_sync(self, "prep", self.prep(shared))
        items = sync_items(self, prep_res)
        with Results(items, self._on_error) as results:
            for params in items:
                with results.guard(params, self):
                    results.values.append(self._orch(shared, {**self.params, **params}))
        self.last_results = results.values
        return checked_sync(self, "post", self.post(shared, prep_res, None))

    async def _run_in_async_flow(self, shared: Any) -> Any:
        prep_res = checked_sync(self, "prep", self.prep(shared))
        await self._run_each(shared, sync_items(self, prep_res))
        return checked_sync(self, "post", self.post(shared, prep_res, None))

    async def _run_each(self, shared: Any, items: Any) -> None:
        with Results(items, self._on_error) as results:
            async with aclosing(each(items)) as source:
                async for params in source:
                    with results.guard(params, self):
                        merged = {**self.params, **params}
                        results.values.append(await self._orch_async(shared, merged))
        self.last_results = results.values


class AsyncFlow(Flow, AsyncNode):
    """A flow of async and sync nodes, with ``prep_async`` and ``post_async``.

    ``exec`` of a sync node runs in a worker thread, so that it does not block what
    runs at the same time; its ``prep`` and ``post`` run on the event loop's
    thread, one at a time (see `BaseNode.run_in_thread`).

    >>> class Ask(AsyncNode):
    ...     async def exec_async(self, prep_res):
    ...         return "yes"
    ...     async def post_async(self, shared, prep_res, exec_res):
    ...         return exec_res
    >>> import asyncio
    >>> asyncio.run(AsyncFlow(start=Ask()).run_async({}))
    'yes'

    The arguments are those of `Flow` and, as in `AsyncNode`, `mode`, `deadline` and `fallback`.
    `concurrency_limit` is checked and otherwise without effect here and in `AsyncBatchFlow`,
    where only one run is at work; `AsyncParallelBatchFlow` obeys it.
    """

    concurrency_limit = ConcurrencyLimit()
    _slots: Slots

    @checked_arguments()
    def __init__(
        self,
        start: BaseNode | None = None,
        concurrency_limit: int | None = None,
        *,
        max_steps: int | None = DEFAULT_MAX_STEPS,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        super().__init__(start, max_steps=max_steps)
        self.concurrency_limit = concurrency_limit
        self._mode_options = as_mode_options(mode, deadline=deadline, fallback=fallback)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:  # noqa: ARG002
        """Return the last action, for the flow around this one."""
        return exec_res

    def _run(self, shared: Any) -> Any:
        return AsyncNode._run(self, shared)

    async def _run_async(self, shared: Any) -> Any:
        with use_mode(self._mode_options):
            prep_res = await self._awaitable("prep_async", self.prep_async(shared))
            post = self.post_async(shared, prep_res, await self._run_all(shared, prep_res))
            return await self._awaitable("post_async", post)

    async def _run_all(self, shared: Any, prep_res: Any) -> Any:  # noqa: ARG002
        return await self._orch_async(shared)

    async def _run_in_async_flow(self, shared: Any) -> Any:
        return await self._run_async(shared)


class AsyncBatchFlow(AsyncFlow, BatchFlow):
    """An async `BatchFlow`: one run after another.

    The arguments are those of `AsyncFlow`, and `on_error` as in `BatchNode`.
    """

    @checked_arguments()
    def __init__(
        self,
        start: BaseNode | None = None,
        concurrency_limit: int | None = None,
        *,
        max_steps: int | None = DEFAULT_MAX_STEPS,
        on_error: OnError = "raise",
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        super().__init__(
            start,
            concurrency_limit,
            max_steps=max_steps,
            mode=mode,
            deadline=deadline,
            fallback=fallback,
        )
        self._on_error: OnError = check_on_error(on_error)
        warn_of_turns(self, mode)

    async def _run_all(self, shared: Any, prep_res: Any) -> None:
        await self._run_each(shared, async_items(self, prep_res))


class AsyncParallelBatchFlow(AsyncFlow, BatchFlow):
    """An async batch flow whose runs overlap.

    Each dict of parameters from ``prep_async`` (any iterable or async iterable of
    them) starts a run of its own, with its own copies of the nodes but the same
    ``shared``: see the top of this module for how to keep branches apart, and
    `BatchFlow` for ``self.last_results``.

    >>> class Load(AsyncNode):
    ...     async def post_async(self, shared, prep_res, exec_res):
    ...         return f"text of {self.params['filename']}"
    >>> class Files(AsyncParallelBatchFlow):
    ...     async def prep_async(self, shared):
    ...         return [{"filename": name} for name in shared["files"]]
    ...     async def post_async(self, shared, prep_res, exec_res):
    ...         shared["texts"] = self.last_results
    >>> import asyncio
    >>> shared = {"files": ["a", "b"]}
    >>> asyncio.run(Files(start=AsyncFlow(start=Load()), concurrency_limit=3).run_async(shared))
    >>> shared["texts"]
    ['text of a', 'text of b']

    The arguments are those of `AsyncBatchFlow`. `concurrency_limit` is how many runs are at
    work at once, in all copies of this flow together; None for all. A run that waits for this
    same flow inside itself does not count meanwhile. With ``on_error="raise"``, the other runs
    are cancelled and awaited before the error is raised. With ``mode="batch"``, the runs go on
    together, and what they ask at the same stage becomes one round of jobs.
    """

    @checked_arguments()
    def __init__(
        self,
        start: BaseNode | None = None,
        concurrency_limit: int | None = None,
        *,
        max_steps: int | None = DEFAULT_MAX_STEPS,
        on_error: OnError = "raise",
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        super().__init__(
            start,
            concurrency_limit,
            max_steps=max_steps,
            mode=mode,
            deadline=deadline,
            fallback=fallback,
        )
        self._on_error: OnError = check_on_error(on_error)

    def get_concurrent_task_count(self) -> int:
        """Return the number of running runs of this flow and copies."""
        return self._slots.in_use()

    async def _run_all(self, shared: Any, prep_res: Any) -> None:
        async def run_one(params: dict[str, Any], _attempt: Attempt) -> Any:
            return await self._orch_async(shared, {**self.params, **params})

        items, slots = async_items(self, prep_res), self._slots.here()
        self.last_results = await run_pool(
            self, run_one, items, slots=slots, on_error=self._on_error
        )
