"""Checks of settings, whose errors name the setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llmflow.errors import ConfigurationError
from llmflow.types import parse_amount

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


_hints: Any = lru_cache(get_type_hints)


def check_fields(owner: object, *, prefix: str = "", **bounds: Mapping[str, Any]) -> None:
    """Check the numbers, booleans and literals of settings by their types.

    Args:
        owner: the settings. Amounts, which may be texts, become numbers.
        prefix: goes before the names of settings in errors.
        bounds: the arguments of `number` and `whole` for some of them.
    """
    for name, hint in _hints(type(owner)).items():
        value, full = getattr(owner, name), f"{prefix}{name}"
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and type(None) in kinds:
            continue
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                allowed = ", ".join(map(repr, get_args(hint)))
                raise ConfigurationError(f"{full} must be one of {allowed}; got {value!r}")
        elif hint is bool:
            if not isinstance(value, bool):
                raise ConfigurationError(f"{full} must be True or False; got {value!r}")
        elif float in kinds and str in kinds:
            object.__setattr__(owner, name, parse_amount(getattr(owner, name), name=full))
        elif int in kinds:
            whole(full, value, **{"low": 0, **bounds.get(name, {})})
        elif kinds[0] is float:
            number(full, value, **bounds.get(name, {}))


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
