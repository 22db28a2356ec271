"""The share of a quota for one of several programs."""

from __future__ import annotations

import math
import os
from typing import Any, Final

from llmflow.errors import ConfigurationError, redact

VARIABLE: Final = "LLMFLOW_SHARE"
# Less than this is nothing, up to rounding.
_LEAST: Final = 1e-9
_MOST_PROGRAMS: Final = 1000


def parse_share(value: Any, *, name: str = "share") -> float:
    """Read a part of a whole: ``"1/4"``, ``"0.25"`` or ``0.25``.

    >>> parse_share("1/4")
    0.25

    Args:
        value: the part, above 0 and at most 1.
        name: what it is called in the message of an error.

    Raises:
        ConfigurationError: it is something else.
    """
    share = math.nan
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            share = _quotient(value) if isinstance(value, str) else float(value)
        except (ValueError, ArithmeticError):
            share = math.nan
    if not _LEAST <= share <= 1.0:
        raise ConfigurationError(
            f"{name} must be a part of the whole, above 0 and at most 1: 1/N, such as 1/4, for "
            f"one of N programs with the same key, or a number such as 0.25; got "
            f"{redact(repr(value))}"
        )
    return share


def _quotient(text: str) -> float:
    part, over, whole = text.partition("/")
    # Two minus signs are a slip of the pen, not a share.
    return max(0.0, float(part)) / (float(whole) if over else 1.0)


def share_text(share: float) -> str:
    """Format a share, as a fraction where that is simple.

    >>> share_text(0.25), share_text(0.123456)
    ('1/4', '0.123456')
    """
    for programs in range(1, _MOST_PROGRAMS + 1):
        part = round(share * programs)
        if part and math.isclose(share * programs, part, rel_tol=1e-9):
            return f"{part}/{programs}" if programs > 1 else str(part)
    return f"{share:.6g}"


def part_of(count: int, share: float) -> int:
    """Return a share of a whole number, rounded down, at least 1.

    >>> part_of(10, 0.25), part_of(1, 0.25)
    (2, 1)
    """
    return max(1, math.floor(count * share + _LEAST))


def share_of_environment() -> float | None:
    """Return the share in ``LLMFLOW_SHARE``; None if unset or empty.

    Raises:
        ConfigurationError: it is no share; the message names the variable.
    """
    value = os.environ.get(VARIABLE, "").strip()
    return parse_share(value, name=VARIABLE) if value else None
