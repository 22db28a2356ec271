"""What a mode is: a way to get a `Response` for a `Request`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Protocol

from llmflow.errors import ProviderError
from llmflow.types import Charge, Request, Response, WireRequest

next_call_id = count(1).__next__
"""Numbers the calls of this process, so that what is told of one call can be put together."""


class Sending:
    """Whether a request may have run at the provider.

    Attributes:
        in_flight: whether it was sent, and has not failed.
        billed: whether it has failed in a way that tells nothing of that.
    """

    __slots__ = ("billed", "in_flight")

    def __init__(self) -> None:
        self.in_flight = self.billed = False

    @property
    def may_have_run(self) -> bool:
        """Whether somebody may have to pay for it."""
        return self.in_flight or self.billed

    def note(self, error: ProviderError) -> None:
        """Note that it has failed."""
        self.in_flight = False
        self.billed = self.billed or error.may_be_billed


class Second(Sending, ABC):
    """What is kept back for a request that is sent beside another one."""

    __slots__ = ()

    @abstractmethod
    def close(self, *, charged: bool) -> None:
        """Take what was kept back as spent, or give it back."""


class Payment(Sending, ABC):
    """What is kept back for one call, whose requests may each have to be paid for."""

    __slots__ = ()

    @abstractmethod
    def begin(self, requests: int) -> None:
        """Note that a request is about to be sent, and how many there are with it."""

    @abstractmethod
    def ended(self, error: ProviderError) -> None:
        """Note that it has failed; if it may have run, what was kept back is spent."""

    @abstractmethod
    async def renew(self) -> None:
        """Keep back what the next request may cost.

        Raises:
            BudgetExceededError: it does not fit any more.
        """

    @abstractmethod
    async def go_live(self) -> None:
        """Keep back what a live call may cost, in place of a row of a batch job.

        Raises:
            BudgetExceededError: it does not fit.
        """

    @abstractmethod
    def second(self) -> Second | None:
        """Keep something back for a request beside this one; None where it does not fit."""


class Call:
    """One call on its way to an answer.

    Args:
        id: the call's number in this process.
        request: what is asked.
        wire: the request as it goes over the wire; None for a provider that has a client of
            its own, and where it is in a file already.

    Attributes:
        charge: what its provider reserves for it, where that was asked already.
        payment: what is kept back for it; None where nobody limits that.
        retried: is told of each failure after which the request is sent again; None where
            nobody asks.
    """

    __slots__ = ("charge", "id", "payment", "request", "retried", "wire")

    def __init__(self, id: int, request: Request, wire: WireRequest | None) -> None:  # noqa: A002
        self.id = id
        self.request = request
        self.wire = wire
        self.charge: Charge | None = None
        self.payment: Payment | None = None
        self.retried: Callable[[ProviderError], None] | None = None


class Mode(Protocol):
    """A way to get answers: live calls, or batch jobs."""

    async def complete(self, call: Call, /) -> Response:
        """Answer one call.

        Raises:
            ProviderError: it failed for good, with the number of its attempts.
        """
        ...
