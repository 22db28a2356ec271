"""The OpenAI chat dialect: ``/chat/completions``, charged by ``max_tokens`` on arrival."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from llmflow.simulator.answer import Answer
from llmflow.simulator.dialect import DialectError
from llmflow.simulator.openai_errors import (
    BROKEN,
    GARBAGE,
    OpenAIError,
    bad_key,
    quota_headers,
    rejection,
)
from llmflow.simulator.openai_reply import chunks, completion
from llmflow.simulator.openai_request import ChatRequest, parse_chat
from llmflow.simulator.quota import Charge, Decision, Domain
from llmflow.simulator.settings import SimulatorSettings

_VERSION = "2020-10-01"


class OpenAIDialect:
    """Speaks and charges as OpenAI does.

    Args:
        settings: what the provider is set to.
        wall: the time of day when the engine's clock is at 0, in seconds since 1970.

    """

    def __init__(self, settings: SimulatorSettings, *, wall: float) -> None:
        self.broken: Mapping[str, DialectError] = BROKEN
        self.garbage: tuple[tuple[str, bytes], ...] = GARBAGE
        self._settings = settings
        self._wall = wall
        self.rejections_cost = settings.rejections_cost
        self._about = f"openai-organization: {settings.organization}\r\nopenai-processing-ms: "

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the authorization."""
        return headers.get("authorization", "")

    def bad_key(self, headers: Mapping[str, str]) -> OpenAIError | None:
        """Return the 401 for a missing or wrong key; None if it is right."""
        return bad_key(headers.get("authorization", ""), self._settings)

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> ChatRequest:
        """Read a chat completion request, or raise an `OpenAIError`."""
        del now
        error = self.bad_key(headers)
        if error is not None:
            raise error
        return parse_chat(body, self._settings)

    def headers(self, ident: str, latency: float) -> str:
        """Return the header lines of every answer."""
        return (
            f"x-request-id: req_{ident}\r\n{self._about}{round(latency * 1000)}\r\n"
            f"openai-version: {_VERSION}\r\n"
        )

    def quota_headers(self, domain: Domain, *, now: float) -> str:
        """Return the x-ratelimit header lines."""
        del now
        return quota_headers(domain, self._settings)

    def rejection(self, decision: Decision, call: ChatRequest, *, now: float) -> OpenAIError:
        """Return the 429 that tells of a decision against a request."""
        del now
        return rejection(decision, call.model, self._settings)

    def whole(self, call: ChatRequest, said: Answer, *, ident: str, now: float) -> bytes:
        """Return the body of a chat completion."""
        return completion(call, said, ident=ident, created=int(self._wall + now))

    def events(self, call: ChatRequest, said: Answer, *, ident: str, now: float) -> list[bytes]:
        """Return the chunks of a streamed chat completion."""
        return chunks(call, said, ident=ident, created=int(self._wall + now))

    def produced(self, said: Answer) -> int:
        """Return 0: all is charged on arrival."""
        del said
        return 0

    def used(self, call: ChatRequest, said: Answer) -> Charge | None:
        """Return what was really used, if this provider refunds."""
        if not self._settings.refund:
            return None
        output = said.tokens * call.choices
        return Charge(call.prompt_tokens + output, call.prompt_tokens, output)

    def answered(self, call: ChatRequest, *, now: float) -> None:
        """Do nothing: no prompt is kept."""

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return a model, or the list of all models without a name."""
        del headers
        created, names = int(self._wall + now), self._settings.models
        if name and names and name not in names:
            raise OpenAIError(
                404,
                f"The model '{name}' does not exist",
                param="model",
                code="model_not_found",
            )
        models = [
            {"id": one, "object": "model", "created": created, "owned_by": "llmflow-simulator"}
            for one in ((name,) if name else names or ("simulated",))
        ]
        return orjson.dumps(models[0] if name else {"object": "list", "data": models})

    def unknown(self, method: str, path: str) -> OpenAIError:
        """Return the 404 for a path that does not exist."""
        return OpenAIError(404, f"Invalid URL ({method} {path})")

    def not_allowed(self, allowed: str) -> OpenAIError:
        """Return the 405."""
        message = f"Only {allowed} requests are accepted."
        return OpenAIError(405, message, code="method_not_supported")

    def unreadable(self, status: int, message: str) -> OpenAIError:
        """Return the error for a request that was refused before it was read."""
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return OpenAIError(status, message, kind=kind)
