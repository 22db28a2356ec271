"""Time-outs by phase: an argument of `LLM`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError


@values_by_name("total")
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Time limits of one attempt, by phase. A late attempt is retried.

    `first_byte` and `total` are counted from the beginning of the attempt, after admission:
    waiting for the quota is never counted. ``math.inf`` means no limit.

    >>> Timeout(total=60.0)
    Timeout(connect=10.0, first_byte=None, total=60.0)

    The first byte has no limit of its own unless you set one. Most servers send nothing,
    not even the status, before the whole answer is written, which may rightly take minutes;
    others (DeepSeek, under load) send the status at once and then blank lines for as long
    as ten minutes. So silence says little of whether an answer will come. Set it where the
    server is known to begin early.

    Args:
        connect: seconds until a new connection stands: name look-up, TCP and TLS (10).
        first_byte: seconds until the reply's status and headers are there; None: only `total`
            counts.
        total: seconds until the whole answer is there (300).

    Raises:
        ConfigurationError: a value is not above zero.
    """

    connect: float = 10.0
    first_byte: float | None = None
    total: float = 300.0

    def __post_init__(self) -> None:
        for name in ("connect", "first_byte", "total"):
            value = getattr(self, name)
            if value is None and name == "first_byte":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"timeout {name} must be seconds above 0; got {value!r}")


OF_CONTROL: Final = Timeout(total=60.0)
"""Of requests about batch jobs."""
# Servers look through a file before they answer: minutes after the last of the upload.
OF_FILES: Final = Timeout(first_byte=300.0, total=3600.0)
"""Of uploads and downloads of files, which may besides stand still for a minute."""
