"""No redirect is followed while litellm asks: it would carry prompts and keys elsewhere.

litellm (read: 1.90 to 1.110) and the SDKs below it follow redirects, and offer no setting
for all of their providers. On the way to another host their HTTP clients drop the header
``Authorization``, but neither ``x-api-key`` nor ``x-goog-api-key`` nor the body, and the
answer would be that host's. litellm makes its clients in many places, so this is settled
where all of their requests pass: the public ``send`` of httpx, its successor httpx2 and
requests, and aiohttp's ``ClientSession``. It holds in the context of a call of ours alone;
what else the program does with these libraries goes its own way.

A redirect is an error there, too, whatever the provider's code would make of it. Long and
many headers are read there as they are by llmflow's own providers, and `replies` looks
there at what a reply holds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from llmflow.errors import InvalidRequestError

Look = Callable[[Any], None]
"""What is done with a reply before the caller has it; it may raise an error in its place."""

_held: Final[ContextVar[Look | None]] = ContextVar("llmflow_no_redirects", default=None)
_FOLLOW: Final = {"follow_redirects": False}
_ALLOW: Final = {"allow_redirects": False}
_HEADERS: Final = {"max_line_size": 2**17, "max_field_size": 2**17, "max_headers": 2000}
# Where requests pass, and with what.
_GATES: Final[tuple[tuple[str, str, str, Mapping[str, Any]], ...]] = (
    ("httpx", "AsyncClient", "send", _FOLLOW),
    ("httpx", "Client", "send", _FOLLOW),
    ("httpx2", "AsyncClient", "send", _FOLLOW),
    ("httpx2", "Client", "send", _FOLLOW),
    ("requests", "Session", "send", _ALLOW),
    ("aiohttp", "ClientSession", "_request", _ALLOW | _HEADERS),
)

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


def _see_nothing(reply: Any) -> None:
    """Leave a reply as it is."""


@contextlib.contextmanager
def no_redirects(look: Look = _see_nothing) -> Iterator[None]:
    """Have the HTTP clients follow no redirect in this context, and in its threads and tasks.

    Args:
        look: what is done with every other reply.
    """
    token = _held.set(look)
    try:
        yield
    finally:
        _held.reset(token)


def guard() -> None:
    """Have the HTTP clients that litellm may use heed `no_redirects`. Once is enough."""
    for module, name, method, options in _GATES:
        try:
            owner: Any = getattr(importlib.import_module(module), name)
            original: Any = getattr(owner, method)
        except (ImportError, AttributeError):  # not there in every version
            continue
        if not hasattr(original, "_llmflow_guarded"):
            taken = inspect.signature(original).parameters
            fixed = {
                name: value
                for name, value in options.items()
                if name in taken or name not in _HEADERS  # not in every version of aiohttp
            }
            setattr(owner, method, _guarded(original, fixed))


def _guarded(original: Callable[..., Any], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    is_async = inspect.iscoroutinefunction(original)
    guarded = _guarded_async(original, fixed) if is_async else _guarded_sync(original, fixed)
    guarded._llmflow_guarded = True  # type: ignore[attr-defined]
    return guarded


def _guarded_async(original: Callable[..., Any], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def send(*args: Any, **options: Any) -> Any:
        look = _held.get()
        if look is None:
            return await original(*args, **options)
        reply = await original(*args, **{**options, **fixed})
        if _redirects(reply):
            await _give_up(reply)
            raise _refusal(reply)
        look(reply)
        return reply

    return send


def _guarded_sync(original: Callable[..., Any], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send(*args: Any, **options: Any) -> Any:
        look = _held.get()
        if look is None:
            return original(*args, **options)
        reply = original(*args, **{**options, **fixed})
        if _redirects(reply):
            reply.close()
            raise _refusal(reply)
        look(reply)
        return reply

    return send


def _status(reply: Any) -> Any:
    return getattr(reply, "status_code", None) or getattr(reply, "status", None)


def _redirects(reply: Any) -> bool:
    return _status(reply) in _REDIRECTS


async def _give_up(reply: Any) -> None:
    close = getattr(reply, "aclose", None) or reply.close
    closing = close()
    if inspect.isawaitable(closing):
        await closing


def _refusal(reply: Any) -> InvalidRequestError:
    status = _status(reply)
    return InvalidRequestError(
        "the server redirects elsewhere, which is not followed; check the base URL", status=status
    )
