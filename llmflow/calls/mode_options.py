"""The mode of calls, as run, flow, node or LLM choose it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from llmflow.errors import ConfigurationError
from llmflow.headers import parse_duration

ModeName = Literal["parallel", "batch", "auto"]
Fallback = Literal["parallel", "batch"]

MODES: Final = ("parallel", "batch", "auto")
_FALLBACKS: Final = ("parallel", "batch")
_DAY: Final = 86_400.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeOptions:
    """Mode of calls, with its deadline and fallback.

    Args:
        mode: live calls in parallel, the provider's batch jobs, or whichever of the two is
            in time and within the budget.
        deadline: seconds after which all is to be answered, counted from the first call;
            None for no hurry.
        fallback: the other way, for what the first does not answer: ``"parallel"`` for the
            leftovers of jobs, and where there is no batch API; ``"batch"`` where a daily quota
            is used up.
        on_quota_used_up: called by each call that goes into a job for that reason.
    """

    mode: ModeName = "parallel"
    deadline: float | None = None
    fallback: Fallback | None = None
    on_quota_used_up: Callable[[], None] | None = None


current_mode: ContextVar[ModeOptions | None] = ContextVar("llmflow_mode", default=None)
"""What the node, flow or run around the running code has chosen; None: parallel calls."""


def as_mode_options(
    mode: str | None, *, deadline: float | str | None = None, fallback: str | None = None
) -> ModeOptions | None:
    """Return checked options; None where nothing is chosen.

    >>> as_mode_options("batch", deadline="6h").deadline
    21600.0

    Raises:
        ConfigurationError: there is no such mode, the deadline is no time, or the fallback is
            not another way.
    """
    if mode is None:
        if deadline is not None or fallback is not None:
            raise ConfigurationError('deadline and fallback need a mode, such as mode="auto"')
        return None
    if mode not in MODES:
        raise ConfigurationError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    if fallback is not None and fallback not in _FALLBACKS:
        raise ConfigurationError(f"fallback must be 'parallel', 'batch' or None; got {fallback!r}")
    if fallback == mode:
        raise ConfigurationError(f"mode and fallback are the same, {mode!r}: leave one out")
    seconds = None if deadline is None else _seconds(deadline)
    if seconds is not None and mode == "parallel":
        raise ConfigurationError('a deadline needs mode="auto" or mode="batch"')
    return ModeOptions(mode=mode, deadline=seconds, fallback=fallback)  # type: ignore[arg-type]


def use_mode(options: ModeOptions | None) -> AbstractContextManager[None]:
    """Apply a mode to all calls of the block; None changes nothing."""
    return within(current_mode, options)


@contextmanager
def within(variable: ContextVar[_T | None], value: _T | None) -> Iterator[None]:
    """Set a context variable for the block; None changes nothing."""
    if value is None:
        yield
        return
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _seconds(deadline: float | str) -> float:
    seconds: float | None = None
    if isinstance(deadline, str):
        text = deadline.strip().lower()
        if text.endswith("d") and text[:-1].replace(".", "", 1).isdigit():
            seconds = float(text[:-1]) * _DAY
        else:
            seconds = float(text) if text.isdecimal() else parse_duration(text)
    elif isinstance(deadline, int | float) and not isinstance(deadline, bool):
        seconds = float(deadline)
    if seconds is None or not 0 < seconds < math.inf:
        raise ConfigurationError(
            f"deadline must be a time such as '6h', '90m' or seconds; got {deadline!r}"
        )
    return seconds
