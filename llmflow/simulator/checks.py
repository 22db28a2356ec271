"""Checks of settings, whose errors name the setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar, get_args

from llmflow.errors import ConfigurationError

_T = TypeVar("_T")


def number(name: str, value: object, *, above: float | None = None, low: float = 0.0) -> float:
    """Return a finite float within bounds, or raise."""
    rule = f"above {above:g}" if above is not None else f"of at least {low:g}"
    message = f"{name} must be a number {rule}; got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(message)
    number = float(value)
    if not math.isfinite(number) or (number <= above if above is not None else number < low):
        raise ConfigurationError(message)
    return number


def whole(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Return a whole number within bounds, or say what is wrong."""
    rule = f"of at least {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= (high or value):
        raise ConfigurationError(f"{name} must be a whole number {rule}; got {value!r}")
    return value


def choices(owner: object, *, prefix: str = "", **kinds: object) -> None:
    """Raise if a setting is none of its kind's literals."""
    for name, kind in kinds.items():
        value = getattr(owner, name)
        if value not in get_args(kind):
            allowed = ", ".join(repr(choice) for choice in get_args(kind))
            raise ConfigurationError(f"{prefix}{name} must be one of {allowed}; got {value!r}")


def flags(owner: object, *names: str, prefix: str = "") -> None:
    """Raise if a setting is not a boolean."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise ConfigurationError(f"{prefix}{name} must be True or False; got {value!r}")


def from_mapping(cls: type[_T], data: object, *, name: str) -> _T:
    """Build a settings object; an unknown key is an error."""
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{name} must be a table of settings; got {data!r}")
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise ConfigurationError(
                f"{name} has no setting {key!r}; there are: {', '.join(sorted(known))}"
            )
    return cls(**data)
