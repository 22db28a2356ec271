"""The HTTP channel of batch jobs: small requests and large files."""

from __future__ import annotations

import contextlib
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from llmflow import transport
from llmflow.transport.timeout import Timeout

if TYPE_CHECKING:
    from pathlib import Path

    from llmflow.batch_api import FileBounds, Upload
    from llmflow.types import WireReply, WireRequest

CONTROL: Final = Timeout(total=60.0)
STREAM: Final = Timeout(first_byte=300.0, total=3600.0)


class StreamChannel:
    """A `llmflow.batch_api.Channel` over HTTP.

    Args:
        timeout: how long a request with a small body and reply may take.
        stream_timeout: how long a file may take. Servers look through a file before they
            answer, so the first byte may be minutes after the last of the upload.
        calls_per_minute: the pace of requests once so many were sent at once; None: any.
    """

    def __init__(
        self,
        *,
        timeout: Timeout = CONTROL,
        stream_timeout: Timeout = STREAM,
        calls_per_minute: float | None = None,
    ) -> None:
        self._timeout = timeout
        self._stream_timeout = stream_timeout
        self._pace: AbstractAsyncContextManager[None] = contextlib.nullcontext()
        if calls_per_minute is not None:
            from aiolimiter import AsyncLimiter

            # Equal requests at a fixed rate, and nothing to give back: what it is made for.
            self._pace = AsyncLimiter(calls_per_minute, 60.0)

    async def send(self, wire: WireRequest, body: Upload | None = None) -> WireReply:
        """Send a request with a streamed body, and return the reply.

        Raises:
            ProviderError: there was no reply; a reply of any status is returned.
            LLMFlowError: as `llmflow.transport.send`.
        """
        async with self._pace:
            pass
        if body is None:
            return await transport.send(wire, timeout=self._timeout)
        return await transport.send(wire, timeout=self._stream_timeout, body=body)

    async def fetch(
        self, wire: WireRequest, path: Path, bounds: FileBounds | None = None
    ) -> WireReply:
        """Send a request and save a reply of status 200, atomically.

        Raises:
            ProviderError: there was no whole reply.
            ResultsTooLargeError: it is above the bounds.
            LLMFlowError: as `llmflow.transport.fetch`.
        """
        async with self._pace:
            pass
        return await transport.fetch(wire, path, timeout=self._stream_timeout, bounds=bounds)
