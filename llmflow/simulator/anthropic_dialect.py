"""The Anthropic dialect: ``/v1/messages``, with input and output as quotas of their own.

Input is charged on arrival by an estimate and settled to what it was, without
what the cache held; output is charged while it is produced, whatever
``max_tokens`` says, and may go into debt: no request is let in before that is paid.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from llmflow.simulator.answer import Answer
from llmflow.simulator.anthropic_cache import PromptCache
from llmflow.simulator.anthropic_errors import (
    BROKEN,
    GARBAGE,
    AnthropicError,
    bad_key,
    given_key,
    rejection,
)
from llmflow.simulator.anthropic_fields import check_version
from llmflow.simulator.anthropic_headers import format_instant, quota_headers
from llmflow.simulator.anthropic_reply import events, message
from llmflow.simulator.anthropic_request import MessagesRequest, parse_messages
from llmflow.simulator.dialect import DialectError
from llmflow.simulator.quota import Charge, Decision, Domain
from llmflow.simulator.settings import SimulatorSettings


class AnthropicDialect:
    """Speaks and charges as Anthropic does.

    Args:
        settings: what the provider is set to.
        wall: the time of day when the engine's clock is at 0, in seconds since 1970.

    """

    def __init__(self, settings: SimulatorSettings, *, wall: float) -> None:
        self.broken: Mapping[str, DialectError] = BROKEN
        self.garbage: tuple[tuple[str, bytes], ...] = GARBAGE
        self._settings = settings
        self._wall = wall
        self.rejections_cost = False
        self._cache = PromptCache()

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the API key."""
        return given_key(headers)

    def bad_key(self, headers: Mapping[str, str]) -> AnthropicError | None:
        """Return the 401 for a missing or wrong key; None if it is right."""
        return bad_key(headers, self._settings)

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> MessagesRequest:
        """Read a request for a message, or raise an `AnthropicError`."""
        error = self.bad_key(headers)
        if error is not None:
            raise error
        version = check_version(headers)
        beta = "anthropic-beta" in headers
        call = parse_messages(body, self._settings, version=version, beta=beta)
        if call.marks:
            call.cached = self._cache.read(call.marks, now=now)
            uncached = max(0, call.estimate - call.cached)
            call.charge = Charge(uncached, uncached)
        return call

    def headers(self, ident: str, latency: float) -> str:
        """Return the header lines of every answer."""
        del latency
        return (
            f"request-id: req_{ident}\r\n"
            f"anthropic-organization-id: {self._settings.organization}\r\n"
        )

    def quota_headers(self, domain: Domain, *, now: float) -> str:
        """Return the anthropic-ratelimit header lines."""
        return quota_headers(domain, self._settings, wall=self._wall + now)

    def rejection(self, decision: Decision, call: MessagesRequest, *, now: float) -> AnthropicError:
        """Return the refusal that tells of a decision against a request."""
        return rejection(decision, call.model, self._settings, wall=self._wall + now)

    def whole(self, call: MessagesRequest, said: Answer, *, ident: str, now: float) -> bytes:
        """Return the body of a message."""
        del now
        return message(call, said, ident=ident)

    def events(self, call: MessagesRequest, said: Answer, *, ident: str, now: float) -> list[bytes]:
        """Return the events of a streamed message."""
        del now
        return events(call, said, ident=ident)

    def produced(self, said: Answer) -> int:
        """Return the answer's tokens."""
        return said.tokens

    def used(self, call: MessagesRequest, said: Answer) -> Charge:
        """Return what was really used; what the cache held is free."""
        uncached = call.prompt_tokens - call.cached
        return Charge(uncached + said.tokens, uncached, said.tokens)

    def answered(self, call: MessagesRequest, *, now: float) -> None:
        """Keep the marked beginnings of the prompt."""
        if call.marks:
            self._cache.write(call.marks, now=now)

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return a model, or the list of all models without a name."""
        check_version(headers)
        created, names = format_instant(int(self._wall + now)), self._settings.models
        if name and names and name not in names:
            raise AnthropicError(404, f"model: {name}")
        models = [
            {
                "type": "model",
                "id": one,
                "display_name": one,
                "created_at": created,
                "lifecycle": "active",
                "max_input_tokens": self._settings.context_tokens,
                "max_tokens": self._settings.context_tokens,
            }
            for one in ((name,) if name else names or ("simulated",))
        ]
        if name:
            return orjson.dumps(models[0])
        ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
        return orjson.dumps({"data": models, "has_more": False, **ends})

    def unknown(self, method: str, path: str) -> AnthropicError:
        """Return the 404 for a path that does not exist."""
        del method, path
        return AnthropicError(404, "Not Found")

    def not_allowed(self, allowed: str) -> AnthropicError:
        """Return the 405."""
        del allowed
        return AnthropicError(405, "Method Not Allowed")

    def unreadable(self, status: int, message: str) -> AnthropicError:
        """Return the error for a request that was refused before it was read."""
        return AnthropicError(status, message)
