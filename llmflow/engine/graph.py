"""The base class of nodes and flows, and edges between nodes.

``a >> b`` goes from *a* to *b* on the action ``"default"``, ``a - "retry" >> b``
on ``"retry"``, and ``a >> None`` ends the flow there on purpose.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from pathlib import Path
from types import CoroutineType
from typing import Any, ClassVar, TypeVar

from llmflow.errors import ConfigurationError, UsageError

NextNode = TypeVar("NextNode", bound="BaseNode | None")
Items = Iterable[Any] | AsyncIterable[Any]
_T = TypeVar("_T")
_A = TypeVar("_A")

# The whole of llmflow, two folders up, and asyncio.
_NOT_THE_USERS = tuple(
    str(folder) + os.sep for folder in (Path(__file__).parents[1], Path(asyncio.__file__).parent)
)


def warn_user(message: str) -> None:
    """Warn at the innermost line that is neither llmflow's nor asyncio's."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)


def warn_of_turns(owner: object, mode: str | None) -> None:
    """Warn of nodes and flows that await batch jobs one by one."""
    if mode == "batch":
        name = type(owner).__name__
        warn_user(
            f"{name} works on one item after another, so each becomes a batch job of its own: "
            "make it a parallel one"
        )


def check_node(node: object) -> None:
    """Refuse what a flow could not run."""
    if node is None or isinstance(node, BaseNode):
        return
    if isinstance(node, _ConditionalTransition):
        raise TypeError(
            f"a >> b - {node.action!r} >> c does not mean what it seems to: give the "
            f"transition a line of its own, as in  a >> b  and  b - {node.action!r} >> c"
        )
    if isinstance(node, type) and issubclass(node, BaseNode):
        raise TypeError(
            f"a node or None (the end) must follow >>; got a class: write {node.__name__}()"
        )
    raise TypeError(f"a node or None (the end) must follow >>; got {node!r}")


class BaseNode:
    """Prepare, execute, post: one step of a flow.

    ``prep`` reads what it needs from the shared store, ``exec`` computes without
    it, ``post`` writes back and returns the action that chooses the next node
    (None means ``"default"``). A flow runs a shallow copy of the node per visit,
    so that attributes set in one visit are not seen by the next.

    >>> class Greet(BaseNode):
    ...     def prep(self, shared):
    ...         return shared["name"]
    ...     def exec(self, name):
    ...         return f"Hello, {name}"
    ...     def post(self, shared, prep_res, exec_res):
    ...         shared["greeting"] = exec_res
    >>> shared = {"name": "Ada"}
    >>> Greet().run(shared)
    >>> shared["greeting"]
    'Hello, Ada'
    """

    run_in_thread: ClassVar[bool] = True
    """Whether an async flow runs ``exec`` of this (sync) node in a worker thread.

    Set it to False on a class whose ``exec`` must stay on the event loop's thread;
    it then blocks the loop while it works.
    """

    params: dict[str, Any]
    successors: dict[Any, BaseNode | None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
            return
        for hook in ("prep", "exec", "post"):
            twin = f"{hook}_async"
            # An async node has both, and says itself which of them it never calls.
            if twin in cls.__dict__ and not any(twin in base.__dict__ for base in cls.__mro__[1:]):
                warn_user(
                    f"{cls.__name__}.{twin} is never called, because {cls.__name__} is not async: "
                    f"make it an async node, or write `def {hook}`"
                )

    def __init__(self) -> None:
        self.params = {}
        self.successors = {}

    def set_params(self, params: dict[str, Any]) -> None:
        """Replace the parameters. Inside a flow, the flow's own replace them again."""
        self.params = params

    def next(self, node: NextNode, action: str = "default") -> NextNode:
        """Connect this node to another by an action; returns that node.

        Args:
            node: the next node; None ends the flow there, without a warning.
            action: what ``post`` returns to choose this edge.

        Raises:
            TypeError: it is not a node.

        """
        check_node(node)
        if action in self.successors:
            warn_user(f"Overwriting successor for action '{action}'")
        self.successors[action] = node
        return node

    def prep(self, shared: Any, /) -> Any:
        """Read what ``exec`` needs from the shared store."""

    def exec(self, prep_res: Any, /) -> Any:
        """Compute, without access to the shared store."""

    def post(self, shared: Any, prep_res: Any, exec_res: Any, /) -> Any:
        """Write to the shared store and return the action."""

    def run(self, shared: Any) -> Any:
        """Run this node alone and return its action."""
        if self._leads_on():
            warn_user("Node won't run successors. Use Flow.")
        return self._run(shared)

    def __rshift__(self, other: NextNode) -> NextNode:
        return self.next(other)

    def __sub__(self, action: str) -> _ConditionalTransition:
        if not isinstance(action, str):
            raise TypeError("Action must be a string")
        return _ConditionalTransition(self, action)

    def _leads_on(self) -> bool:
        return any(node is not None for node in self.successors.values())

    def _exec(self, prep_res: Any) -> Any:
        return checked_sync(self, "exec", self.exec(prep_res))

    def _run(self, shared: Any) -> Any:
        prep_res = checked_sync(self, "prep", self.prep(shared))
        exec_res = self._exec(prep_res)
        return checked_sync(self, "post", self.post(shared, prep_res, exec_res))

    async def _run_in_async_flow(self, shared: Any) -> Any:
        """Run this sync node without blocking its siblings.

        Only ``exec`` leaves the event loop's thread. ``prep`` and ``post`` stay on
        it, so that no two of them touch the shared store at the same moment.
        """
        idle = type(self).exec is BaseNode.exec and "exec" not in self.__dict__
        if idle or not self.run_in_thread:
            return self._run(shared)
        prep_res = checked_sync(self, "prep", self.prep(shared))
        exec_res = await _in_thread(self._exec, prep_res)
        return checked_sync(self, "post", self.post(shared, prep_res, exec_res))


class _ConditionalTransition:
    """The ``node - "action"`` half of ``node - "action" >> next``."""

    def __init__(self, source: BaseNode, action: str) -> None:
        self.source = source
        self.action = action

    def __rshift__(self, target: NextNode) -> NextNode:
        return self.source.next(target, self.action)


async def _in_thread(function: Callable[[_A], _T], argument: _A) -> _T:
    """Call a blocking function in a thread, with this task's context.

    A thread cannot be interrupted. When the caller is cancelled, the call that has
    begun is awaited first and one still in the queue is dropped, so that nothing
    works on unseen. Cancelling a second time does not wait.
    """
    dropped = False

    def work() -> _T:
        if dropped:
            raise asyncio.CancelledError
        try:
            return function(argument)
        except StopIteration as error:
            # A future cannot carry StopIteration; a coroutine turns it into the same.
            raise RuntimeError("a sync node raised StopIteration") from error

    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(None, context.run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        dropped = True
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, and of no interest: the cancellation goes on
        raise


def awaitable(owner: object, hook: str, returned: Any) -> Any:
    """Return what an async method returned, to be awaited.

    Raises:
        ConfigurationError: it cannot be awaited; the message says how the method is written.
    """
    if hasattr(returned, "__await__"):
        return returned
    name = f"{type(owner).__name__}.{hook}"
    if isinstance(returned, AsyncGenerator):
        # What a generator yields is for the items of a batch: returned, not yielded.
        raise ConfigurationError(
            f"{name} yields, so it cannot be awaited: name the generator otherwise and write "
            f"`async def {hook}(...): return self.that_generator(...)`"
        )
    raise ConfigurationError(
        f"{name} is not async: write `async def {hook}(...)`"
        + ("" if returned is None else f"; it returned {type(returned).__name__}")
    )


def checked_sync(owner: object, hook: str, returned: Any) -> Any:
    """Return what a plain method returned.

    Raises:
        ConfigurationError: it is a coroutine, which nobody would await.
    """
    if type(returned) is not CoroutineType:
        return returned
    returned.close()
    name, asynchronous = type(owner).__name__, f"{hook}_async"
    raise ConfigurationError(
        f"{name}.{hook} is async, and {name} is not: make it an async node and write "
        f"`async def {asynchronous}(...)`, or write a plain `def {hook}(...)`"
    )


def not_awaited(owner: object, result: CoroutineType[Any, Any, Any]) -> UsageError:
    """Return the error for a coroutine in the place of a result."""
    result.close()
    return UsageError(
        f"{type(owner).__name__}.exec_async returned the coroutine {result.__qualname__} instead "
        "of its result: write `return await ...`"
    )


def sync_items(owner: object, prep_res: Any) -> Iterable[Any]:
    """Return what to iterate over; None means no items."""
    if prep_res is None:
        return ()
    name = type(owner).__name__
    if isinstance(prep_res, str | bytes | bytearray):
        raise TypeError(
            f"prep of {name} returned one text, whose items are its characters; "
            "for one item, return a list: [text]"
        )
    if isinstance(prep_res, Iterable):
        return prep_res
    if isinstance(prep_res, AsyncIterable):
        raise TypeError(f"{name} is sync and cannot read the async iterable that its prep returned")
    raise TypeError(
        f"prep of {name} must return something to iterate over, or None for no items; "
        f"it returned {prep_res!r}"
    )


def async_items(owner: object, prep_res: Any) -> Items:
    """Return the iterable, preferably asynchronous; None means no items."""
    return prep_res if isinstance(prep_res, AsyncIterable) else sync_items(owner, prep_res)


async def each(items: Items) -> AsyncGenerator[Any, None]:
    """Iterate over items of either kind, closing async iterators.

    Use it within ``contextlib.aclosing``, so that the end comes at once.
    """
    if not isinstance(items, AsyncIterable):
        for item in items:
            yield item
        return
    iterator = aiter(items)
    try:
        async for item in iterator:
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
