"""Text for people: safe to print, counts, amounts, durations and rates."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def printable(text: str) -> str:
    r"""Return foreign text as one line that no terminal obeys.

    >>> printable("one\ntwo \x1b[31mred")
    'one two [31mred'
    """
    kept = (" " if letter.isspace() else letter if letter.isprintable() else "" for letter in text)
    return " ".join("".join(kept).split())


def counted(number: int, one: str, more: str | None = None) -> str:
    """Return a number with its noun, singular or plural.

    >>> counted(1, "row"), counted(2_000, "row"), counted(0, "job is", "jobs are")
    ('1 row', '2,000 rows', '0 jobs are')
    """
    return f"{number:,} {one if number == 1 else f'{one}s' if more is None else more}"


def duration(seconds: float) -> str:
    """Return a duration as people write it.

    >>> duration(3725), duration(120)
    ('1 h 2 min', '2 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours / 24:.0f} days"


def per_second(rate: float) -> str:
    """Return a rate per second, with at least three digits.

    >>> per_second(0.7871), per_second(49.86), per_second(18_461.5)
    ('0.787/s', '49.9/s', '18,462/s')
    """
    return f"{rate:,.0f}/s" if rate >= 999.5 else f"{rate:.3g}/s"


def compact(number: float) -> str:
    """Return a number in three digits or so.

    >>> compact(950), compact(12_345), compact(2_000_000)
    ('950', '12.3k', '2M')
    """
    for size, unit in _UNITS:
        if number >= size * 0.9995:
            return f"{number / size:.{4 if number >= 1e3 * size else 3}g}{unit}"
    return f"{number:.0f}"


def dollars(value: float) -> str:
    """Return an amount of money, with more digits for small ones.

    >>> dollars(5), dollars(0.0123456), dollars(1234.5), dollars(0.0000042)
    ('$5.00', '$0.0123', '$1,234.50', '$0.0000042')
    """
    if value >= 1 or value == 0:
        return f"${value:,.2f}"
    digits = 4
    while digits < 10 and round(value, digits) < 100 * 10**-digits and value < 0.001:
        digits += 1
    text = f"{value:.{digits}f}"
    whole, _, fraction = text.partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"
