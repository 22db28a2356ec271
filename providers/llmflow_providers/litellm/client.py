"""Imports and calls litellm without its side effects.

One place for what its import and its calls do besides (read: 1.90 to 1.110): seconds on the
importing thread, a download of prices, ``.env`` files and environment variables, log handlers,
background tasks, and clients that outlive their event loop.

No redirect is followed while litellm asks: it would carry prompts and keys elsewhere. litellm and
the SDKs below it follow redirects, and offer no setting for all of their providers. On the way to
another host their HTTP clients drop the header ``Authorization``, but neither ``x-api-key`` nor
``x-goog-api-key`` nor the body, and the answer would be that host's. litellm makes its clients in
many places, so this is settled where all of their requests pass: the public ``send`` of httpx, its
successor httpx2 and requests, and aiohttp's ``ClientSession``. It holds in the context of a call
of ours alone; what else the program does with these libraries goes its own way. A redirect is an
error there, whatever the provider's code would make of it. Long and many headers are read there as
they are by llmflow's own providers, and `replies` looks there at what a reply holds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from llmflow.errors import InvalidRequestError, MissingExtraError

INSTALL: Final = "pip install 'llmflow[litellm]'"
_CALLBACKS: Final = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")

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

logger = logging.getLogger("llmflow")


class LiteLLMClient:
    """litellm, imported and silenced."""

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self._acompletion = litellm.acompletion
        self._internal = _internal_flag()
        self._lifetimes: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    async def acompletion(self, arguments: Mapping[str, Any], look: Look) -> Any:
        """Call litellm, without its logging where nobody listens to it.

        Args:
            arguments: of litellm's function of that name.
            look: what is done with each reply before litellm reads it.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._lifetimes:
            for other in [each for each in self._lifetimes if each.is_closed()]:
                del self._lifetimes[other]
            lifetime = self._lifetimes[loop] = self._live(self._ending())
            await lifetime.__anext__()
        with no_redirects(look):
            if self._internal is None or self._is_listened_to(arguments):
                return await self._acompletion(**arguments)
            token = self._internal.set(True)
            try:
                return await self._acompletion(**arguments)
            finally:
                self._internal.reset(token)

    def vendor(self, model: str, base_url: str | None) -> tuple[str, bool]:
        """Return litellm's provider, and whether it has found a key."""
        _, vendor, key, _ = self._litellm.get_llm_provider(model, api_base=base_url)
        known = ("api_key", f"{vendor}_key", "secret_manager_client")
        return vendor, bool(key) or any(getattr(self._litellm, each, None) for each in known)

    def missing_keys(self, model: str, vendor: str) -> list[str]:
        """Return the names of the environment variables that could hold the key."""
        names = self._litellm.validate_environment(model).get("missing_keys") or []
        return [each for each in names if each.endswith("_API_KEY")] if vendor else []

    def known_fields(self, model: str) -> list[str] | None:
        """Return the fields that litellm can send; None if unknown."""
        try:
            found: list[str] | None = self._litellm.get_supported_openai_params(model)
        except Exception:  # noqa: BLE001 - the boundary to litellm
            return None
        return found

    def _is_listened_to(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether the user has litellm log or count this call."""
        litellm = self._litellm
        if litellm.max_budget or any("callback" in name for name in arguments):
            return True
        return any(getattr(litellm, name, None) for name in _CALLBACKS)

    def _ending(self) -> str:
        """Return how litellm's names of the running loop's connections end."""
        cache = getattr(self._litellm, "in_memory_llm_clients_cache", None)
        naming: Any = getattr(cache, "update_cache_key_with_event_loop", None)
        ending = "" if naming is None else str(naming(""))
        # By the loop's id, or in later versions by a number of litellm's own.
        return ending or f"-{id(asyncio.get_running_loop())}"

    async def _live(self, ending: str) -> AsyncGenerator[None, None]:
        # A loop closes the asynchronous generators that were begun on it when it shuts
        # down. litellm keeps its connections by the loop, for ever: they would
        # be left open, and may be handed to the next loop that happens to get the same id.
        try:
            yield
        finally:
            cache = getattr(self._litellm, "in_memory_llm_clients_cache", None)
            clients: dict[str, Any] = getattr(cache, "cache_dict", None) or {}
            for key in [each for each in clients if each.endswith(ending)]:
                await _close(clients.pop(key))


class Loader:
    """Imports litellm once, whichever thread or loop asks first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._future: concurrent.futures.Future[LiteLLMClient] | None = None

    def load(self) -> LiteLLMClient:
        """Import in this thread, or wait for the one that does."""
        future, is_first = self._claim()
        if is_first:
            self._run(future)
        return future.result()

    async def load_in_thread(self) -> LiteLLMClient:
        """Import in a thread; the event loop goes on meanwhile."""
        future, is_first = self._claim()
        if is_first:
            threading.Thread(
                target=self._run, args=(future,), name="llmflow-import-litellm", daemon=True
            ).start()
        return future.result() if future.done() else await asyncio.wrap_future(future)

    def _claim(self) -> tuple[concurrent.futures.Future[LiteLLMClient], bool]:
        with self._lock:
            if self._future is not None:
                return self._future, False
            future: concurrent.futures.Future[LiteLLMClient] = concurrent.futures.Future()
            future.set_running_or_notify_cancel()  # a waiter that is cancelled stops nobody else
            self._future = future
            return future, True

    def _run(self, future: concurrent.futures.Future[LiteLLMClient]) -> None:
        try:
            client = LiteLLMClient(_import())
        except BaseException as error:  # noqa: BLE001 - it is raised in whoever waits
            with self._lock:
                self._future = None
            if isinstance(error, ImportError):
                message = f"litellm cannot be imported ({error}): {INSTALL}"
                error = MissingExtraError(message)
            future.set_exception(error)
        else:
            future.set_result(client)


loader = Loader()
"""The one for this process."""


def is_installed() -> bool:
    """Return whether litellm is there, without importing it."""
    if "litellm" in sys.modules:
        return True
    try:
        return importlib.util.find_spec("litellm") is not None
    except (ImportError, ValueError):
        return False


def _import() -> Any:
    """Import litellm and what its first call would load."""
    before = list(warnings.filters)
    with _unchanged_environment(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litellm: Any = importlib.import_module("litellm")
        litellm.suppress_debug_info = True
        _silence()
        guard()
        for name in ("litellm.litellm_core_utils.default_encoding", "openai.resources"):
            with contextlib.suppress(ImportError):  # not there in every version
                importlib.import_module(name)
        _warm_up(litellm)
        # What litellm itself adds is kept: its types are built, with warnings, at first use.
        added = [each for each in warnings.filters if each not in before]
    for action, message, _, _, _ in added:
        if action == "ignore" and isinstance(message, re.Pattern):
            warnings.filterwarnings("ignore", message=message.pattern)
    return litellm


def _warm_up(litellm: Any) -> None:
    """Have litellm do half a second's work of its first call."""
    flag = _internal_flag()
    if flag is None:
        return  # the user's callbacks would be told of it
    token = flag.set(True)
    try:
        litellm.completion(
            "openai/gpt-4o", [{"role": "user", "content": "."}], mock_response=".", api_key="none"
        )
    except Exception as error:  # noqa: BLE001 - the first call takes longer, that is all
        logger.debug("litellm was not warmed up: %s", type(error).__name__)
    finally:
        flag.reset(token)


@contextlib.contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Import without downloads or ``.env`` files; leave the environment as it was."""
    wanted = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    before = {name: os.environ.get(name) for name in (*wanted, "TIKTOKEN_CACHE_DIR")}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, was in before.items():
            if was is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = was


def _silence() -> None:
    """Take litellm's own handlers off its loggers, unless wanted.

    Errors are raised and logged by llmflow; what remains goes to handlers that the
    program has set up itself.
    """
    if os.environ.get("LITELLM_LOG"):
        return
    for name in _LOGGERS:
        theirs = logging.getLogger(name)
        for handler in list(theirs.handlers):
            if type(handler).__module__.startswith("litellm"):
                theirs.removeHandler(handler)
        theirs.addHandler(logging.NullHandler())
        if theirs.level == logging.NOTSET:
            theirs.setLevel(logging.ERROR)


def _internal_flag() -> ContextVar[bool] | None:
    """Return litellm's mark for calls that it does not log.

    With it no background tasks are made, which else outlive the event loop and cost
    a fifth of the call.
    """
    try:
        module = importlib.import_module("litellm._internal_context")
    except ImportError:
        return None
    flag = getattr(module, "is_internal_call", None)
    return flag if isinstance(flag, ContextVar) else None


async def _close(client: Any) -> None:
    close = getattr(client, "aclose", None) or getattr(client, "close", None)
    if callable(close):
        with contextlib.suppress(Exception):
            closing = close()
            if inspect.isawaitable(closing):
                await closing


# --- redirects ------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_redirects(look: Look = lambda _reply: None) -> Iterator[None]:
    """Disable redirects in this context, its threads and tasks.

    Args:
        look: what is done with every other reply.
    """
    token = _held.set(look)
    try:
        yield
    finally:
        _held.reset(token)


def guard() -> None:
    """Make litellm's HTTP clients heed `no_redirects`, once."""
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
    def checked(look: Look, reply: Any) -> Any:
        if _status(reply) in _REDIRECTS:
            raise InvalidRequestError(
                "the server redirects elsewhere, which is not followed; check the base URL",
                status=_status(reply),
            )
        look(reply)
        return reply

    @functools.wraps(original)
    async def send_async(*args: Any, **options: Any) -> Any:
        look = _held.get()
        if look is None:
            return await original(*args, **options)
        reply = await original(*args, **{**options, **fixed})
        if _status(reply) in _REDIRECTS:
            closing = (getattr(reply, "aclose", None) or reply.close)()
            if inspect.isawaitable(closing):
                await closing
        return checked(look, reply)

    @functools.wraps(original)
    def send(*args: Any, **options: Any) -> Any:
        look = _held.get()
        if look is None:
            return original(*args, **options)
        reply = original(*args, **{**options, **fixed})
        if _status(reply) in _REDIRECTS:
            reply.close()
        return checked(look, reply)

    guarded: Any = send_async if inspect.iscoroutinefunction(original) else send
    guarded._llmflow_guarded = True
    return guarded  # type: ignore[no-any-return]


def _status(reply: Any) -> Any:
    return getattr(reply, "status_code", None) or getattr(reply, "status", None)
