"""A request's place in the queue, and how far it has come."""

from __future__ import annotations

import math

from llmflow.types import Charge

# CANCELLED: over, but its old place in the queue has still to be cleared away.
WAITING, ADMITTED, OVER, CANCELLED = 0, 1, 2, 3


class Ticket:
    """One request's place in the queue, later its right to be sent."""

    __slots__ = (
        "admitted_at",
        "charge",
        "is_opening",
        "left_at",
        "mark",
        "number",
        "patience",
        "says_when_it_leaves",
        "state",
    )

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.number = 0
        self.state = WAITING
        self.admitted_at = 0.0
        self.patience = math.inf
        """Seconds that this request waits for a daily quota."""
        self.says_when_it_leaves = False
        """Whether `leave` is called; else it is taken to be sent when it is admitted."""
        self.is_opening = False
        """Whether it was admitted, and waits for a connection."""
        self.left_at = 0.0
        self.mark: tuple[float, ...] = ()
        """What had been sent in each unit when it was, itself included."""

    def revise(self) -> None:
        """Bring the charge up to date, before this ticket is looked at."""

    def grant(self) -> None:
        """Called on admission, while the state changes: must only take note."""

    def refuse(self, error: Exception) -> None:
        """Be told that there will be no admission; likewise."""
