"""A provider that was never reached is told apart from one that is down for a moment."""

from __future__ import annotations

import pytest

from llmflow.errors import (
    AuthenticationError,
    ConnectionFailedError,
    OverloadedError,
    ProviderError,
    RateLimitError,
)
from llmflow.jobs.reachability import Reachability
from llmflow.retry import Retry


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def refused() -> ConnectionFailedError:
    error = ConnectionFailedError("it did not work")
    error.__cause__ = ConnectionRefusedError(111, "refused")
    return error


class TestContact:
    def setup_method(self) -> None:
        self.clock = Clock()
        self.contact = Reachability(patience=5.0, now=self.clock)
        self.lost: list[ProviderError] = []
        self.contact.on_lost = self.lost.append

    def worth(self, error: BaseException, at: float = 0.0) -> bool:
        self.clock.time = at
        return self.contact._is_worth_an_attempt(error)

    def test_refused_connections_are_tried_again_until_patience_ends(self) -> None:
        assert [self.worth(refused(), at) for at in (0.0, 2.0, 4.9)] == [True] * 3
        assert self.contact.trouble is not None
        assert not self.worth(refused(), 5.0)
        assert self.contact.lost

    def test_the_loss_is_told_once(self) -> None:
        for at in (0.0, 5.0, 6.0):
            self.worth(refused(), at)
        assert len(self.lost) == 1

    def test_after_an_answer_a_refusal_is_a_passing_failure(self) -> None:
        self.worth(refused())
        self.contact.confirm()
        assert self.contact.trouble is None
        assert self.worth(refused(), 1000.0)
        assert not self.lost

    @pytest.mark.parametrize(
        "error", [OverloadedError("busy"), ConnectionFailedError("the connection broke")]
    )
    def test_whoever_breaks_a_connection_is_there(self, error: ProviderError) -> None:
        assert self.worth(error)
        assert self.contact.made

    @pytest.mark.parametrize(
        "error", [AuthenticationError("no"), RateLimitError("slow"), OSError()]
    )
    def test_what_is_not_passing_is_not_tried_again(self, error: BaseException) -> None:
        assert not self.worth(error)

    def test_the_cause_is_found_below_another_clients_errors(self) -> None:
        class ConnectError(Exception):
            pass

        outer = ConnectionFailedError("it did not work")
        outer.__cause__ = RuntimeError("wrapped")
        outer.__cause__.__context__ = ConnectError()
        self.worth(outer)
        assert self.contact.trouble is outer

    def test_without_causes_the_message_counts(self) -> None:
        self.worth(ConnectionFailedError("cannot connect: refused"))
        assert not self.contact.made

    def test_the_policy_keeps_the_numbers_of_its_base(self) -> None:
        policy = self.contact.policy(Retry(attempts=3, wait_max=7.0))
        assert (policy.attempts, policy.wait_max) == (3, 7.0)
        assert policy.retry is not None
