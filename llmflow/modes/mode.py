"""What a mode is: a way to get a `Response` for a `Request`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Protocol

from llmflow.errors import ProviderError
from llmflow.types import Request, Response, WireRequest

next_call_id = count(1).__next__
"""Numbers the calls of this process, so that what is told of one call can be put together."""


class Sent:
    """What of a call was sent so far, for whoever pays where it is cancelled.

    Attributes:
        requests: how many requests were.
        in_flight: whether one of them may be running at the provider.
    """

    __slots__ = ("in_flight", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = False


class Call:
    """One call on its way to an answer.

    Args:
        id: the call's number in this process.
        request: what is asked.
        wire: the request as it goes over the wire; None for a provider that has a client of
            its own, and where it is in a file already.

    Attributes:
        sent: where a mode keeps what it has sent; None where nobody asks.
        retried: is told of each failure after which the request is sent again; None where
            nobody asks.
    """

    __slots__ = ("id", "request", "retried", "sent", "wire")

    def __init__(self, id: int, request: Request, wire: WireRequest | None) -> None:  # noqa: A002
        self.id = id
        self.request = request
        self.wire = wire
        self.sent: Sent | None = None
        self.retried: Callable[[ProviderError], None] | None = None


class Mode(Protocol):
    """A way to get answers: live calls, or batch jobs."""

    async def complete(self, call: Call, /) -> Response:
        """Answer one call.

        Raises:
            ProviderError: it failed for good, with the number of its attempts.
        """
        ...
