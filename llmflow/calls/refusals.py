"""Meaning of a refused call: its input, passing, for all, or billed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from llmflow.calls.call import LiveCall
from llmflow.calls.observe import CallReporter
from llmflow.clock import Clock
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    TooLargeForLimitError,
)
from llmflow.limits import Limiter
from llmflow.limits.standing import Verdict
from llmflow.types import Response, WireReply

PAUSE_SECONDS: Final = 5.0
"""How long all calls pause when a key and a model that have worked are refused."""
FILTERED: Final = "content_filter"
"""The finish reason of an answer that was stopped because of its content."""
_LONGEST_PAUSE: Final = 60.0
# Seconds between two looks for a loop that was closed.
_LOOK_AFTER: Final = 1.0
_PAGES: Final = ("<!doctype", "<html", "<head")
_BLANK: Final = "\ufeff \t\r\n"
_PAGE_BYTES: Final = 256
_OF_AN_INPUT: Final = (400, 403)
_OF_ALL: Final = (AuthenticationError, ModelNotFoundError)
# A gateway has given up, or has lost its connection; whoever is behind it may not have.
_GIVEN_UP: Final = (408, 499, 504, 520, 524)
_NEVER_RUN: Final = (RateLimitError, QuotaExhaustedError)
# What says that nothing has run, also with a status that says that all is well.
_REFUSED: Final = (
    AuthenticationError,
    BillingError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QuotaExhaustedError,
    RateLimitError,
    TooLargeForLimitError,
)


class Refusals:
    """Decides what follows when one key and model are refused."""

    def __init__(self, limiter: Limiter, reporter: CallReporter, clock: Clock) -> None:
        self._limiter = limiter
        self._reporter = reporter
        self._clock = clock

    async def let_pass(self, call: LiveCall, error: ProviderError, *, sent: float) -> None:
        """Return if a call should be sent again, waiting for a probe.

        `Standing.left` is to be told of the end of a call that is `doubted`. It was `sent` then.

        Raises:
            ContentFilterError: the refusal is meant for its input.
            ProviderError: the error itself, which is the end of the call.
        """
        standing = self._limiter.standing
        if standing.has_worked and is_of_input(error):
            raise of_content(error) from error
        if not is_of_all(error):
            raise error
        now = self._clock.monotonic()
        verdict = standing.refused(
            call,
            sent=sent,
            now=now,
            probed=call.probed,
            is_gone=asyncio.get_running_loop().is_closed,
        )
        if verdict is Verdict.FINAL:
            if call.probed:  # whoever waits need not find it out, too
                self._limiter.refuse(error, seconds=0.0)
            raise error
        call.doubted = True
        seconds = 0.0
        if verdict is Verdict.PROBE:
            call.probed = True
            seconds = min(max(PAUSE_SECONDS, error.retry_after or 0.0), _LONGEST_PAUSE)
            self._limiter.pause(seconds, round_trip=now - sent)
            self._reporter.doubted(call, error, seconds)
        elif verdict is Verdict.WAIT:
            verdict = await self._outcome(call)
            call.probed = call.probed or verdict is Verdict.PROBE
            if verdict is Verdict.FINAL:
                raise error
        self._reporter.retried(call, call.attempts, error, seconds)

    async def _outcome(self, call: LiveCall) -> Verdict:
        """Wait until another call has found out, or has left it to this one."""
        standing, loop = self._limiter.standing, asyncio.get_running_loop()
        told: asyncio.Future[Verdict] = loop.create_future()

        def tell(verdict: Verdict) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed a moment ago
                loop.call_soon_threadsafe(_tell, told, verdict)

        if not standing.wait(call, tell, loop.is_closed):
            return Verdict.AGAIN if standing.has_worked else Verdict.FINAL
        while not told.done():
            await asyncio.wait((told,), timeout=_LOOK_AFTER)
            standing.look()  # who was to find out may have been another loop's, which is closed
        return told.result()


def may_be_billed(error: ProviderError, status: int) -> bool:
    """Return whether a request with an error reply may have run.

    >>> may_be_billed(RateLimitError("later"), 200), may_be_billed(OverloadedError("no"), 504)
    (False, True)
    """
    if isinstance(error, _NEVER_RUN):
        return False  # whatever the status: it waits, and goes on with what is kept back for it
    if status in _GIVEN_UP:
        return True
    if isinstance(error, ContentFilterError) and error.usage is not None:
        return False  # what it has used is known, and need not be guessed
    return 200 <= status < 300 and not isinstance(error, _REFUSED)


def is_page(reply: WireReply) -> bool:
    """Return whether a reply is an HTML page, not the provider's."""
    start = reply.body[:_PAGE_BYTES].decode("utf-8", "replace")
    if "text/html" in reply.headers.get("content-type", "").lower():
        # Gateways label an error in JSON so, too.
        return not start.lstrip(_BLANK).startswith(("{", "["))
    return _begins_as_page(start)


def is_of_input(error: ProviderError) -> bool:
    """Return whether a refusal is a firewall's page about one input.

    It is told by where it comes from, and says nothing before anything has been answered:
    then it may be for all.
    """
    if error.status not in _OF_AN_INPUT or not isinstance(error, (*_OF_ALL, InvalidRequestError)):
        return False
    return error.is_page or _begins_as_page(error.message)


def is_of_all(error: ProviderError) -> bool:
    """Return whether a refusal concerns key or model, so every call."""
    return isinstance(error, _OF_ALL)


def of_content(error: ProviderError) -> ContentFilterError:
    """Return the refusal of one input that a page stands for."""
    return ContentFilterError(
        f"a page in place of an answer, while other requests are answered: something on the way "
        f"refuses this input. It begins: {error.message}",
        provider=error.provider,
        model=error.model,
        status=error.status,
        code=error.code,
        request_id=error.request_id,
        attempts=error.attempts,
    )


def filtered(response: Response) -> ContentFilterError:
    """Return the refusal for an answer stopped by a content filter.

    Adapters raise it themselves; this is for those of others that do not.
    """
    return ContentFilterError(
        f"the answer was stopped because of its content (finish_reason {FILTERED!r})",
        provider=response.provider,
        model=response.model,
        code=FILTERED,
        request_id=response.request_id,
        partial_text=response.text,
        usage=response.usage,
        cost=response.cost,
    )


def _begins_as_page(text: str) -> bool:
    return text.lstrip(_BLANK).lower().startswith(_PAGES)


def _tell(told: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not told.done():
        told.set_result(verdict)
