"""Base of a dialect: its words, headers and charges."""

from __future__ import annotations

import hmac
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from llmflow.simulator.batches.api import BatchAPI
from llmflow.simulator.exchange import Answer, DialectError, bearer
from llmflow.simulator.quota import Bucket, Charge, Decision, Domain
from llmflow.simulator.settings import SimulatorSettings

_QUOTA = ("limit", "remaining", "reset")


class Dialect(ABC):
    """One provider's language and rules. Times are those of the engine's clock.

    `ident` is the request's identifier, without the prefix that a dialect gives it.

    Args:
        settings: what the provider is set to.
        wall: the time of day when the engine's clock is at 0, in seconds since 1970.

    """

    path: ClassVar[str]
    """Where answers are asked for, below the version."""
    own_header: ClassVar[str | None] = None
    """A header that no other dialect's requests have."""
    error: ClassVar[type[DialectError]]
    """The form of its errors."""
    batch_api: ClassVar[type[BatchAPI]]
    """Its files and jobs."""
    header_lines: ClassVar[str]
    """Those of every answer, with ``{ident}``, ``{organization}`` and ``{milliseconds}``."""
    charges_rejections: ClassVar[bool] = True
    """Whether the setting `rejections_cost` concerns it."""
    cut_body: ClassVar[bytes]
    """The beginning of an answer, for the fault that cuts it."""
    quota_names: ClassVar[str]
    """The names of quota headers, made of a ``{unit}`` and a ``{what}``."""
    quota_units: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "requests": ("rpm", "rpd"),
        "tokens": ("tpm", "tpd"),
    }
    """The units of quota headers, and the limits of which each shows the first."""

    def __init__(self, settings: SimulatorSettings, *, wall: float) -> None:
        self._settings, self._wall = settings, wall
        self._header_lines = self.header_lines.replace("{organization}", settings.organization)
        self._units = [
            (unit, "".join(f"{self.quota_names.format(unit=unit, what=w)}: %s\r\n" for w in _QUOTA))
            for unit in self.quota_units
        ]
        self.garbage = (
            ("text/html", b"<html><head><title>502 Bad Gateway</title></head></html>"),
            ("application/json", self.cut_body),
            ("text/plain", b"upstream connect error or disconnect/reset before headers"),
        )
        """Content types and bodies of answers that are none."""

    # --- requests

    @classmethod
    def claims(cls, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether a request for something else is in this dialect."""
        return path.startswith(cls.path) or (cls.own_header or "") in headers

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the key of a request, or an empty text."""
        return bearer(headers)

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raise the error for a missing or wrong key."""
        right = self._settings.api_key
        if right is None:
            return
        key = self.key(headers)
        if not key:
            raise self.error.of("no_key")
        if not hmac.compare_digest(key.encode("utf-8", "replace"), right.encode()):
            masked = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 16 else "*" * 8
            raise self.error.of("wrong_key", key=masked)

    @abstractmethod
    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> Any:
        """Read a request into a `Call`, or raise a `DialectError`."""

    # --- headers

    def headers(self, ident: str, latency: float) -> str:
        """Return the header lines of every answer."""
        lines = self._header_lines.replace("{ident}", ident)
        return lines.replace("{milliseconds}", str(round(latency * 1000)))

    def quota_headers(self, domain: Domain, *, now: float) -> str:
        """Return the header lines that show the state of a quota."""
        if self._settings.quota_headers == "off":
            return ""
        if domain.display is None:
            found = ((*each, self.shown_buckets(each[0], domain.shown)) for each in self._units)
            domain.display = [each for each in found if each[2]]
        text = ""
        for unit, lines, buckets in domain.display:
            limit = level = reset = 0.0
            for bucket in buckets:
                limit += bucket.limit
                level += max(0.0, bucket.level)
                reset = max(reset, bucket.reset)
            left = self.shown_rest(unit, level)
            text += lines % (int(limit), left, self.shown_reset(reset, now=now))
        return text

    def shown_buckets(self, unit: str, shown: Mapping[str, Bucket]) -> tuple[Bucket, ...]:
        """Return the buckets whose sum a unit's quota headers show."""
        for name in self.quota_units[unit]:
            if name in shown:
                return (shown[name],)
        return ()

    def shown_rest(self, unit: str, level: float) -> int:
        """Return what is left, as quota headers show it."""
        del unit
        return math.floor(level + 1e-6)

    @abstractmethod
    def shown_reset(self, seconds: float, *, now: float) -> str:
        """Return the time of a full bucket, as quota headers show it."""

    # --- answers

    @staticmethod
    @abstractmethod
    def whole(call: Any, said: Answer, *, ident: str, created: int) -> bytes:
        """Return the body of an answer."""

    @staticmethod
    @abstractmethod
    def events(call: Any, said: Answer, *, ident: str, created: int) -> list[bytes]:
        """Return the server-sent events of a streamed answer, the closing ones included."""

    def produced(self, said: Answer) -> int:
        """Return how many tokens are charged while the answer is produced."""
        del said
        return 0

    def used(self, call: Any, said: Answer) -> Charge | None:
        """Return the final charge of an answered request; None: as before."""
        if not self._settings.refund:
            return None
        output = said.tokens * call.choices
        return Charge(call.prompt_tokens + output, call.prompt_tokens, output)

    def answered(self, call: Any, *, now: float) -> None:  # noqa: B027 - most keep nothing
        """Know that an answer was sent."""

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return the body of a model, or of the list of all."""
        del headers
        names = self._settings.models
        if name and names and name not in names:
            raise self.error.of("model", name=name)
        shown = [
            self.shown_model(one, self.created(now))
            for one in ((name,) if name else names or ("simulated",))
        ]
        return orjson.dumps(shown[0] if name else self.model_list(shown))

    @abstractmethod
    def shown_model(self, name: str, created: int) -> dict[str, Any]:
        """Return a model as it is shown."""

    @abstractmethod
    def model_list(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the list of all models as it is shown."""

    def created(self, now: float) -> int:
        """Return the second of the day since 1970."""
        return int(self._wall + now)

    @abstractmethod
    def rejection(self, decision: Decision, call: Any, *, now: float) -> DialectError:
        """Return the error that tells of a decision against a request."""


def retry_headers(wait: float | None, settings: SimulatorSettings) -> str:
    """Return the headers that say when to come again, rounded up."""
    if wait is None:
        return ""
    text = f"retry-after: {max(1, math.ceil(wait - 1e-6))}\r\n" if settings.retry_after else ""
    if settings.retry_after_ms:
        text += f"retry-after-ms: {max(1, math.ceil(wait * 1000 - 1e-6))}\r\n"
    return text
