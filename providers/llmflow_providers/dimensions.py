"""Which limit a rejection is about, from the words of many providers.

An error's text names it most surely ("tokens per min (TPM)"); a code or type is a
weaker hint: Groq's type ``requests`` is there for the minute and for the day alike.
"""

from __future__ import annotations

import re
from typing import Final

# A search of a few kilobytes for each of a storm of rejections: one pass, not twenty.
_PERIOD: Final = r"(?:\s+per\s+|\s*/\s*)(second|sec|minute|min|day)"
_IN_WORDS: Final = re.compile(
    r"\((?P<short>(?:[io]?t|r)p[md])\)"  # OpenAI, Groq: "tokens per min (TPM)"
    rf"|(?P<side>input |output |prompt |generated )?(?P<unit>tokens?|requests?|calls)"
    rf"{_PERIOD}"  # Anthropic: "input tokens per minute"; xAI: "Requests per Second"
    r"|(?P<rate>token|call|request) rate limit"  # Azure
    r"|per[ -]minute (?P<each>request|token)"  # Cohere
    r"|(?P<daily>daily (?:request|token|rate))"
    r"|free-models-per-(?P<free>day|min)"  # OpenRouter
)
# Gemini: GenerateRequestsPerDayPerProjectPerModel, GenerateContentInputTokensPerModelPerMinute
_QUOTA_ID: Final = re.compile(r"(requests|inputtokens|tokens)\w*?per(minute|day)")
_BY_CODE: Final = {
    "requests": "rpm",
    "tokens": "tpm",
    "dynamic_request_limited": "rpm",  # Together
    "dynamic_token_limited": "tpm",
}
_SIDES: Final = {"input ": "i", "prompt ": "i", "output ": "o", "generated ": "o"}
_KNOWN: Final = frozenset({"rpm", "tpm", "itpm", "otpm", "rpd", "tpd"})


def dimension_of(text: str, *codes: str | None) -> str | None:
    """Return the field of `Quota` that a rejection is about, or None if it does not say.

    >>> dimension_of("rate limit of 50,000 input tokens per minute")
    'itpm'
    >>> dimension_of("Slow down.", "rate_limit_exceeded", "requests")
    'rpm'

    Args:
        text: what the server said, in lower case.
        codes: the codes and types beside it, in lower case.
    """
    found = _IN_WORDS.search(text)
    name = _named(found) if found else None
    if name is None:
        quota_id = _QUOTA_ID.search(text)
        if quota_id:
            unit = {"requests": "r", "inputtokens": "it", "tokens": "t"}[quota_id[1]]
            name = f"{unit}p{quota_id[2][0]}"
    if name in _KNOWN:
        return name
    return next((_BY_CODE[code] for code in codes if code in _BY_CODE), None)


def _named(found: re.Match[str]) -> str:
    parts = found.groupdict()
    if parts["short"]:
        return parts["short"]
    if parts["free"]:
        return "rpd" if parts["free"] == "day" else "rpm"
    if parts["daily"]:
        return "tpd" if "token" in found.string else "rpd"
    word = parts["unit"] or parts["rate"] or parts["each"]
    unit = "t" if word.startswith("token") else "r"
    period = "d" if found[0].endswith("day") else "m"
    return f"{_SIDES.get(parts['side'] or '', '') if unit == 't' else ''}{unit}p{period}"
