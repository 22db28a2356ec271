"""Budget of a run: reserved before a call, settled after it."""

from llmflow.budget.forecast import OutputForecast, PromptForecast, estimate, prompt_tokens
from llmflow.budget.ledger import Ledger
from llmflow.budget.reservation import Reservation
from llmflow.budget.value import Budget, Estimate, LedgerState, Remaining, Spent

__all__ = [
    "Budget",
    "Estimate",
    "Ledger",
    "LedgerState",
    "OutputForecast",
    "PromptForecast",
    "Remaining",
    "Reservation",
    "Spent",
    "estimate",
    "prompt_tokens",
]
