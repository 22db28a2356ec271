"""What a mode is: a way to get a `Response` for a `Request`."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Protocol

from llmflow.types import Request, Response, WireRequest

next_call_id = count(1).__next__
"""Numbers the calls of this process, so that what is told of one call can be put together."""


class Call(NamedTuple):
    """One call on its way to an answer.

    Args:
        id: the call's number in this process.
        request: what is asked.
        wire: the request as it goes over the wire, or None for a provider that has a client
            of its own.
    """

    id: int
    request: Request
    wire: WireRequest | None


class Mode(Protocol):
    """A way to get answers: live calls, or batch jobs."""

    async def complete(self, call: Call, /) -> Response:
        """Answer one call.

        Raises:
            ProviderError: it failed for good, with the number of its attempts.
        """
        ...
