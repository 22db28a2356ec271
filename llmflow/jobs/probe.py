"""Sends one request to read the limits from its reply's headers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from llmflow import transport
from llmflow.errors import InvalidRequestError, ProviderError, RequestTimeoutError
from llmflow.provider import ClientProvider, WireProvider
from llmflow.transport import Timeout
from llmflow.types import QuotaSignal, Request

# Some models refuse to answer in one token; a refusal costs nothing.
_FEWEST_TOKENS: Final = (1, 16)


async def probe(
    provider: WireProvider | ClientProvider, *, timeout: Timeout
) -> tuple[Sequence[QuotaSignal], ProviderError | None]:
    """Ask for one token; return the reply's limits and any error.

    Nobody is asked for admission, and nothing is sent again after a failure.
    """
    refusal: ProviderError | None = None
    for most in _FEWEST_TOKENS:
        message = {"role": "user", "content": "Hi"}
        request = Request(model=provider.model, messages=(message,), max_tokens=most)
        try:
            return await _ask(provider, request, timeout), None
        except ProviderError as error:
            error.provider = error.provider or provider.name
            error.model = error.model or provider.model
            refusal = error
            if not isinstance(error, InvalidRequestError) or "token" not in error.message:
                break
    assert refusal is not None
    return refusal.signals, refusal


async def _ask(
    provider: WireProvider | ClientProvider, request: Request, timeout: Timeout
) -> Sequence[QuotaSignal]:
    # Not by isinstance: before Python 3.12 that runs a protocol's properties.
    if hasattr(type(provider), "complete"):
        client, seconds = cast("ClientProvider", provider), timeout.total
        try:
            async with asyncio.timeout(seconds):
                return (await client.complete(request, timeout=seconds)).signals
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer within {seconds:g} s") from error
    wire = cast("WireProvider", provider)
    reply = await transport.send(wire.encode(request), timeout=timeout)
    signals = wire.signals(reply)
    try:
        wire.decode(reply)
    except ProviderError as error:
        error.signals = (*error.signals, *signals)
        raise
    return signals
