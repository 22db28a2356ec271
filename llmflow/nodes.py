"""Nodes: one call with retries, or many in sequence or parallel.

=======================  =========================  ==========================
                         one item                   many items
=======================  =========================  ==========================
sync                     `Node`                     `BatchNode`
async                    `AsyncNode`                `AsyncBatchNode`, in turn
async, at once                                      `AsyncParallelBatchNode`
=======================  =========================  ==========================
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from types import CoroutineType
from typing import Any, TypedDict, Unpack

from llmflow.arguments import checked_arguments
from llmflow.calls.judge import Validate, checked_validate
from llmflow.calls.mode_options import Fallback, ModeName, ModeOptions, as_mode_options, use_mode
from llmflow.calls.validate import demanding
from llmflow.engine.graph import (
    BaseNode,
    async_items,
    awaitable,
    checked_sync,
    each,
    not_awaited,
    sync_items,
    warn_of_turns,
    warn_user,
)
from llmflow.engine.pool import Attempt, current_attempt, run_pool, worth_repeating
from llmflow.engine.results import Results
from llmflow.errors import AsyncRunError, UsageError
from llmflow.items.idle import suspendable
from llmflow.items.runner import OnError, check_on_error
from llmflow.items.slots import ConcurrencyLimit, Slots, refuse_class_limit
from llmflow.limits.gates import Gate, as_gates


class AsyncNodeOptions(TypedDict, total=False):
    """The arguments of `AsyncNode` that its kinds hand on."""

    timeout: float | None
    gate: Gate | Sequence[Gate] | None
    deadline: float | str | None
    fallback: Fallback | None
    validate: Validate | None


_SYNC_HOOKS = ("prep", "exec", "post", "exec_fallback")
_MOST_DOUBLINGS = 1000


class Node(BaseNode):
    """A node whose ``exec`` is tried again when it fails.

    Only ``exec`` is repeated, on any Exception but a wrong setting, a used-up budget and a
    journal that cannot be written, which another attempt meets again. When the last one fails,
    ``exec_fallback`` decides: what it returns becomes the result; by default it
    raises the error again.

    >>> class Flaky(Node):
    ...     def exec(self, prep_res):
    ...         if self.cur_retry == 0:
    ...             raise OSError("try again")
    ...         return "done"
    ...     def post(self, shared, prep_res, exec_res):
    ...         return exec_res
    >>> Flaky(max_retries=2).run({})
    'done'

    Args:
        max_retries: how many attempts there are in total, at least 1.
        wait: seconds between two attempts.
        exponential_backoff: double the wait after each attempt.
        max_wait: upper bound of the wait in seconds; None for none.

    Raises:
        UsageError: an argument is out of range.

    """

    @checked_arguments()
    def __init__(
        self,
        max_retries: int = 1,
        wait: float = 0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 1:
            raise UsageError(
                "max_retries counts all attempts and must be a whole number of at least 1; "
                f"got {max_retries!r}"
            )
        _check_seconds("wait", wait)
        if max_wait is not None:
            _check_seconds("max_wait", max_wait)
        self.max_retries = max_retries
        self.wait = wait
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self._last_retry = 0

    @property
    def cur_retry(self) -> int:
        """The current attempt, from 0; outside, the last one made."""
        attempt = current_attempt(self)
        return self._last_retry if attempt is None else attempt.index

    @cur_retry.setter
    def cur_retry(self, index: int) -> None:
        self._last_retry = index  # for display only: no loop counts with it

    def exec_fallback(self, prep_res: Any, exc: Exception, /) -> Any:  # noqa: ARG002
        """Return the result of a final failure; by default raise it."""
        raise exc

    def _get_wait_time(self, retry_count: int) -> float:
        """Return the seconds to wait after the attempt of this index."""
        if self.wait <= 0:
            return 0
        wait = self.wait
        if self.exponential_backoff:
            wait *= 2 ** min(retry_count, _MOST_DOUBLINGS)
        return wait if self.max_wait is None else min(wait, self.max_wait)

    def _exec(self, prep_res: Any) -> Any:
        return self._exec_item(prep_res)

    def _exec_item(self, item: Any) -> Any:
        attempt = Attempt(self)
        token = attempt.enter()
        index = 0
        try:
            while True:
                attempt.index = self._last_retry = index
                try:
                    return checked_sync(self, "exec", self.exec(item))
                except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
                    if index + 1 >= self.max_retries or not worth_repeating(error):
                        return self.exec_fallback(item, error)
                wait = self._get_wait_time(index)
                if wait > 0:
                    time.sleep(wait)
                index += 1
        finally:
            attempt.leave(token)


class BatchNode(Node):
    """A node that calls ``exec`` for each item of ``prep``, in turn.

    ``post`` gets the results as a list in input order. Each item has its own
    attempts and its own ``exec_fallback``, which gets the item.

    >>> class Lengths(BatchNode):
    ...     def prep(self, shared):
    ...         return shared["texts"]
    ...     def exec(self, text):
    ...         return len(text)
    ...     def post(self, shared, prep_res, exec_res):
    ...         shared["lengths"] = exec_res
    >>> shared = {"texts": ["a", "bcd"]}
    >>> Lengths().run(shared)
    >>> shared["lengths"]
    [1, 3]

    The arguments are those of `Node`, for each item, and `on_error`: ``"raise"`` ends the batch
    at the first failure, with the results so far on the exception (`partial_results`);
    ``"collect"`` puts a `Failure` in the place of the result and goes on. What every other item
    would meet, too, ends the batch either way: a used-up budget, a wrong key.
    """

    @checked_arguments()
    def __init__(
        self,
        max_retries: int = 1,
        wait: float = 0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        *,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(max_retries, wait, exponential_backoff, max_wait)
        self._on_error: OnError = check_on_error(on_error)

    def _exec(self, prep_res: Any) -> Any:
        items = sync_items(self, prep_res)
        with Results(items, self._on_error) as results:
            for item in items:
                with results.guard(item, self):
                    results.values.append(self._exec_item(item))
        return results.values


class AsyncNode(Node):
    """A node with ``prep_async``, ``exec_async``, ``exec_fallback_async`` and ``post_async``.

    The rules are those of `Node`. It is run with ``await node.run_async(shared)``,
    or inside an `AsyncFlow`.

    >>> class Fetch(AsyncNode):
    ...     async def exec_async(self, prep_res):
    ...         return "page"
    ...     async def post_async(self, shared, prep_res, exec_res):
    ...         return exec_res
    >>> import asyncio
    >>> asyncio.run(Fetch().run_async({}))
    'page'

    Args:
        max_retries: how many attempts there are in total, at least 1.
        wait: seconds between two attempts.
        exponential_backoff: double the wait after each attempt.
        max_wait: upper bound of the wait in seconds; None for none.
        timeout: seconds that one attempt may take, without what it waits for batch jobs; then it
            fails with TimeoutError, which counts like any other error. None for no bound.
        gate: what to pass before each attempt, such as an ``aiolimiter.AsyncLimiter``;
            one, several in a list, or None.
        mode: ``"batch"`` has every LLM call answered by the provider's batch jobs, for half the
            price and in hours; ``"auto"`` decides; None leaves it to what is around the node.
        deadline: when all is to be answered, such as ``"6h"``; the rest is asked in parallel.
        fallback: ``"parallel"`` for what batch jobs leave over; ``"batch"`` where a daily quota
            is used up.
        validate: what is demanded of every answer of an LLM; see `LLM`.
    """

    @checked_arguments()
    def __init__(
        self,
        max_retries: int = 1,
        wait: float = 0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        *,
        timeout: float | None = None,
        gate: Gate | Sequence[Gate] | None = None,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
        validate: Validate | None = None,
    ) -> None:
        super().__init__(max_retries, wait, exponential_backoff, max_wait)
        if timeout is not None:
            _check_seconds("timeout", timeout, above=True)
        self._timeout = timeout
        self._gates = as_gates(gate)
        self._mode_options = as_mode_options(mode, deadline=deadline, fallback=fallback)
        self._validate = checked_validate(validate)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_class_limit(cls)
        for hook in _SYNC_HOOKS:
            twin = f"{hook}_async"
            definer = next(base for base in cls.__mro__ if twin in base.__dict__)
            ignored = definer.__module__.partition(".")[0] == __name__.partition(".")[0]
            if ignored and hook in cls.__dict__:
                warn_user(
                    f"{cls.__name__}.{hook} is never called, because {cls.__name__} is async: "
                    f"write `async def {twin}`"
                )

    _mode_options: ModeOptions | None = None
    _validate: Validate | None = None

    async def prep_async(self, shared: Any, /) -> Any:
        """Read what ``exec_async`` needs from the shared store."""

    async def exec_async(self, prep_res: Any, /) -> Any:
        """Compute, without access to the shared store."""

    async def exec_fallback_async(self, prep_res: Any, exc: Exception, /) -> Any:  # noqa: ARG002
        """Return the result of a final failure; by default raise it."""
        raise exc

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
        """Write to the shared store and return the action."""

    async def run_async(self, shared: Any) -> Any:
        """Run this node alone and return its action."""
        if self._leads_on():
            warn_user("Node won't run successors. Use AsyncFlow.")
        return await self._run_async(shared)

    def _run(self, shared: Any) -> Any:  # noqa: ARG002
        raise AsyncRunError(
            f"Use run_async. {type(self).__name__} is async: call `await ….run_async(shared)`, "
            "and inside another flow, make that an AsyncFlow."
        )

    async def _run_async(self, shared: Any) -> Any:
        with use_mode(self._mode_options), demanding(self._validate):
            prep_res = await self._awaitable("prep_async", self.prep_async(shared))
            exec_res = await self._exec(prep_res)
            post = self.post_async(shared, prep_res, exec_res)
            return await self._awaitable("post_async", post)

    def _awaitable(self, hook: str, returned: Any) -> Any:
        if type(returned) is CoroutineType:
            return returned
        return awaitable(self, hook, returned)

    async def _run_in_async_flow(self, shared: Any) -> Any:
        return await self._run_async(shared)

    async def _exec(self, prep_res: Any) -> Any:
        return await self._exec_item_async(prep_res)

    async def _exec_item_async(self, item: Any) -> Any:
        attempt = Attempt(self)
        token = attempt.enter()
        try:
            return await self._attempts(item, attempt)
        finally:
            attempt.leave(token)

    async def _attempts(self, item: Any, attempt: Attempt) -> Any:
        index = 0
        while True:
            attempt.index = self._last_retry = index
            for gate in self._gates:
                await gate.acquire()
            try:
                work = self.exec_async(item)
                if type(work) is not CoroutineType:
                    work = awaitable(self, "exec_async", work)
                if self._timeout is None:
                    result = await work
                else:
                    async with asyncio.timeout(self._timeout) as limit:
                        with suspendable(limit):
                            result = await work
            except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
                if index + 1 >= self.max_retries or not worth_repeating(error):
                    fallback = self.exec_fallback_async(item, error)
                    return await self._awaitable("exec_fallback_async", fallback)
            else:
                if type(result) is CoroutineType:
                    raise not_awaited(self, result)
                return result
            wait = self._get_wait_time(index)
            if wait > 0:
                await attempt.pause(wait)
            index += 1


class AsyncBatchNode(AsyncNode, BatchNode):
    """An async `BatchNode`: one item after another.

    ``prep_async`` may return an async iterable too, such as an async generator.

    The arguments are those of `AsyncNode`, for each item, and `on_error` of `BatchNode`.
    """

    @checked_arguments(options=AsyncNodeOptions)
    def __init__(
        self,
        max_retries: int = 1,
        wait: float = 0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        *,
        on_error: OnError = "raise",
        mode: ModeName | None = None,
        **options: Unpack[AsyncNodeOptions],
    ) -> None:
        super().__init__(max_retries, wait, exponential_backoff, max_wait, mode=mode, **options)
        self._on_error: OnError = check_on_error(on_error)
        warn_of_turns(self, mode)

    async def _exec(self, prep_res: Any) -> Any:
        items = async_items(self, prep_res)
        with Results(items, self._on_error) as results:
            async with aclosing(each(items)) as source:
                async for item in source:
                    with results.guard(item, self):
                        results.values.append(await self._exec_item_async(item))
        return results.values


class AsyncParallelBatchNode(AsyncNode, BatchNode):
    """An async batch node that works on many items at once.

    ``post_async`` gets the results in input order. ``prep_async`` may return any
    iterable or async iterable, of any length: with a limit, an item is taken
    only when it can start, or soon will, and the number of tasks stays bounded.

    >>> class Summaries(AsyncParallelBatchNode):
    ...     async def prep_async(self, shared):
    ...         return shared["texts"]
    ...     async def exec_async(self, text):
    ...         return text[:3]
    ...     async def post_async(self, shared, prep_res, exec_res_list):
    ...         shared["summary"] = " ".join(exec_res_list)
    >>> import asyncio
    >>> shared = {"texts": ["first text", "second text"]}
    >>> asyncio.run(Summaries(concurrency_limit=5).run_async(shared))
    >>> shared["summary"]
    'fir sec'

    The limit bounds work in flight and nothing else; how many requests a minute
    are allowed is the business of the model that they go to. It is shared by all
    copies of this node, wherever they run in the same event loop. An item that
    waits to be tried again does not count, and lets another one start.

    When an item fails for good, all others are cancelled and awaited before the
    error is raised (`partial_results` has what was finished), unless `on_error`
    says to collect.

    The arguments are those of `AsyncBatchNode`, and `concurrency_limit`: how many items are
    worked on at once; None for all.
    """

    concurrency_limit = ConcurrencyLimit()
    _slots: Slots

    @checked_arguments(options=AsyncNodeOptions)
    def __init__(
        self,
        max_retries: int = 1,
        wait: float = 0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        concurrency_limit: int | None = None,
        *,
        on_error: OnError = "raise",
        mode: ModeName | None = None,
        **options: Unpack[AsyncNodeOptions],
    ) -> None:
        super().__init__(max_retries, wait, exponential_backoff, max_wait, mode=mode, **options)
        self.concurrency_limit = concurrency_limit
        self._on_error: OnError = check_on_error(on_error)

    def get_concurrent_task_count(self) -> int:
        """Return the number of items this node and copies work on."""
        return self._slots.in_use()

    async def _exec(self, prep_res: Any) -> Any:
        return await run_pool(
            self,
            self._attempts,
            async_items(self, prep_res),
            slots=self._slots.here(),
            on_error=self._on_error,
        )


def _check_seconds(name: str, value: object, *, above: bool = False) -> None:
    """Refuse what is no number of seconds.

    Raises:
        UsageError: it is none, or below the bound.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < 0 or (above and value == 0):  # type: ignore[arg-type, operator]
        bound = "a number of seconds above 0" if above else "a number of seconds, 0 or more"
        raise UsageError(f"{name} must be {bound}; got {value!r}")
