"""A request's place in the queue, and how far it has come."""

from __future__ import annotations

from llmflow.types import Charge

# CANCELLED: over, but its old place in the queue has still to be cleared away.
WAITING, ADMITTED, OVER, CANCELLED = 0, 1, 2, 3


class Ticket:
    """One request's place in the queue, later its right to be sent."""

    __slots__ = ("admitted_at", "charge", "number", "state")

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.number = 0
        self.state = WAITING
        self.admitted_at = 0.0

    def grant(self) -> None:
        """Be told of the admission. It is called while the state is being changed: only note it."""
