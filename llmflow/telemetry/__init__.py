"""Events for those who watch many programs: OpenTelemetry, and the standard log.

In a program that uses OpenTelemetry's SDK there is nothing to do: the first `LLM` finds it.
``LLMFLOW_OTEL=off`` in the environment keeps llmflow out of it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from llmflow.errors import ConfigurationError, MissingExtraError
from llmflow.events import Event, Subscription, subscribe

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llmflow.telemetry.otel import Bridge

__all__ = ["auto", "instrument", "log_events", "uninstrument"]

VARIABLE: Final = "LLMFLOW_OTEL"

logger = logging.getLogger("llmflow")

_lock: Final = threading.Lock()
_bridge: Bridge | None = None
_settled = False


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    capture_content: bool | None = None,
) -> None:
    """Make OpenTelemetry spans and metrics of all calls of this process.

    One client span for each call, ``chat MODEL``, from the call to its answer, with
    rejections and retries as its events, after the semantic conventions for generative AI.
    Doing so again replaces the providers.

    >>> from llmflow import telemetry
    >>> telemetry.instrument()  # doctest: +SKIP

    Args:
        tracer_provider: where spans go; None: OpenTelemetry's global one.
        meter_provider: where metrics go; None: OpenTelemetry's global one.
        capture_content: whether spans hold prompts and answers, which may be personal data.
            None: as ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says, else not.

    Raises:
        MissingExtraError: ``opentelemetry-api`` is not installed.
        ConfigurationError: `capture_content` is neither True, False nor None.
    """
    if capture_content is not None and not isinstance(capture_content, bool):
        raise ConfigurationError(
            f"capture_content must be True, False or None; got {capture_content!r}"
        )
    try:
        from llmflow.telemetry import content
        from llmflow.telemetry.otel import Bridge
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise MissingExtraError(
            "OpenTelemetry is not installed: pip install 'llmflow[otel]'"
        ) from error
    wanted = content.is_wanted() if capture_content is None else capture_content
    _put(Bridge(tracer_provider, meter_provider, capture_content=wanted))


def uninstrument() -> None:
    """Stop making spans and metrics; those in progress still end."""
    _put(None)


def auto() -> None:
    """Instrument, once, if this process uses OpenTelemetry's SDK; `LLM` does this itself."""
    if not _settled and "opentelemetry.sdk" in sys.modules:
        _instrument_if_allowed()


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
            logger.log(level, "%s", _line(facts), extra=facts)

    return subscribe(write, kinds=kinds, run_id=run_id)


def _line(facts: dict[str, Any]) -> str:
    """Write an event's facts as one line.

    >>> _line({"kind": "request_finished", "call_id": 7, "seconds": 0.123456, "source": "journal"})
    'request finished call_id=7 seconds=0.123 source=journal'
    """
    kind, *rest = facts.items()
    return " ".join([str(kind[1]).replace("_", " "), *(f"{n}={_shown(v)}" for n, v in rest)])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return repr(text) if " " in text else text


def _instrument_if_allowed() -> None:
    global _settled  # noqa: PLW0603
    _settled = True
    if _is(VARIABLE, "off", "0", "false", "no") or _is("OTEL_SDK_DISABLED", "true"):
        return
    try:
        instrument()
    except Exception as error:  # noqa: BLE001  # no reason to refuse calls
        logger.warning("OpenTelemetry is not used: %s: %s", type(error).__name__, error)


def _put(bridge: Bridge | None) -> None:
    global _bridge, _settled  # noqa: PLW0603
    with _lock:
        _settled = True  # what was said explicitly is not overruled later
        before, _bridge = _bridge, bridge
    if before is not None:
        before.close()


def _is(variable: str, *values: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in values
