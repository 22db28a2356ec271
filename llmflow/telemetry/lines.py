"""Events as lines of the standard log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from llmflow.errors import ConfigurationError
from llmflow.events import Event, Subscription, subscribe

logger = logging.getLogger("llmflow")


def log_events(
    level: int = logging.INFO,
    *,
    kinds: type[Event] | Iterable[type[Event]] | None = None,
    run_id: str | None = None,
) -> Subscription:
    """Log every event to ``llmflow``, until the result is closed.

    The line's facts are fields of the record, too (``extra``), where formatters for JSON and
    structlog's ``ExtraAdder`` find them. It holds no text of prompts or answers, and no key.

    >>> from llmflow import events
    >>> with log_events(kinds=events.RequestFailed):
    ...     pass  # failures of calls made here are logged

    Args:
        level: the level of the lines, such as ``logging.DEBUG``.
        kinds: classes of events, or a base class of them; None: all.
        run_id: log this run only.

    Raises:
        ConfigurationError: the level is no number.
        UsageError: a kind is no class of events.
    """
    if isinstance(level, bool) or not isinstance(level, int):
        raise ConfigurationError(f"level must be a number, such as logging.INFO; got {level!r}")

    def write(event: Event) -> None:
        if logger.isEnabledFor(level):
            facts = event.facts()
            logger.log(level, "%s", line(facts), extra=facts)

    return subscribe(write, kinds=kinds, run_id=run_id)


def line(facts: dict[str, Any]) -> str:
    """Write an event's facts as one line.

    >>> line({"kind": "request_finished", "call_id": 7, "seconds": 0.123456, "source": "journal"})
    'request finished call_id=7 seconds=0.123 source=journal'
    """
    kind, *rest = facts.items()
    return " ".join([str(kind[1]).replace("_", " "), *(f"{n}={_shown(v)}" for n, v in rest)])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return repr(text) if " " in text else text
