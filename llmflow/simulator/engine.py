"""The simulated provider without its sockets: a request in, its fate out.

Everything that decides is synchronous and takes the time as an argument, so
that the same provider runs behind real HTTP and on a virtual clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from llmflow.simulator.faults import Dice
from llmflow.simulator.openai_errors import (
    GARBAGE,
    OVERLOADED,
    SERVER_ERROR,
    DialectError,
    bad_key,
    quota_headers,
    rejection,
    retry_headers,
)
from llmflow.simulator.openai_reply import Answer, answer, chunks, completion
from llmflow.simulator.openai_request import ChatRequest, parse_chat, up_front_tokens
from llmflow.simulator.quota import Decision, Ledger
from llmflow.simulator.settings import Latency, SimulatorSettings
from llmflow.simulator.stats import SimulatorStats, Tally

_VERSION = "2020-10-01"
_ROUTES = {
    "/chat/completions": ("POST", "chat"),
    "/models": ("GET", "models"),
    "/stats": ("GET", "stats"),
    "/reset": ("POST", "reset"),
}
_NO_FAULTS = (None, "slow", "straggler")


@dataclass(slots=True, kw_only=True)
class Reply:
    """What the provider will answer, and when.

    Args:
        status: HTTP status.
        body: the whole body; for a stream, all of its events.
        headers: header lines beside those of the content.
        kind: the content type.
        delay: seconds from the request's arrival to the answer.
        fault: the fault injected, or None. ``reset`` and ``hang`` have no answer.
        events: the server-sent events of a streamed answer, or None.
        event_gap: seconds between two of them.
        decision: the admission to release at the end; None if nothing was admitted.
        tokens: input and output tokens of a proper answer.
        epoch: how many resets were before it.

    """

    status: int
    body: bytes = b""
    headers: str = ""
    kind: str = "application/json"
    delay: float = 0.0
    fault: str | None = None
    events: list[bytes] | None = None
    event_gap: float = 0.0
    decision: Decision | None = None
    tokens: tuple[int, int] = (0, 0)
    epoch: int = 0


class Engine:
    """Answers requests as the provider would.

    >>> engine = Engine(SimulatorSettings(), now=0.0)
    >>> engine.receive("GET", "/v1/models", authorization="", body=b"", now=0.0).status
    200

    Args:
        settings: what the provider is set to.
        now: the time at which it starts, on the clock of all later calls.
        wall: the time of day then, in seconds since 1970.

    """

    def __init__(self, settings: SimulatorSettings, *, now: float, wall: float = 0.0) -> None:
        self.settings = settings
        self._wall = wall - now
        self._epoch = 0
        self.reset(now=now)

    def reset(self, *, now: float) -> None:
        """Forget all that was: full buckets, counts at zero, chance from its start."""
        self._epoch += 1
        latency = self.settings.latency
        assert isinstance(latency, Latency)
        self._latency = latency
        self._ledger = Ledger(self.settings, now=now)
        self._dice = Dice(latency, self.settings.faults, seed=self.settings.seed)
        self._tally = Tally(now=now)

    def stats(self) -> SimulatorStats:
        """Return what was counted so far."""
        return self._tally.snapshot()

    def receive(
        self, method: str, target: str, *, authorization: str, body: bytes, now: float
    ) -> Reply:
        """Decide, at its arrival, what becomes of a request."""
        path = urlsplit(target).path if "?" in target or "//" in target else target
        route = _ROUTES.get(path.removeprefix("/v1").rstrip("/"))
        if route is None:
            message = f"Invalid URL ({method} {path})"
            return Reply(status=404, body=DialectError(404, message).body)
        allowed, name = route
        if method != allowed:
            error = DialectError(
                405, f"Only {allowed} requests are accepted.", code="method_not_supported"
            )
            return Reply(status=405, body=error.body, headers=f"allow: {allowed}\r\n")
        if name == "chat":
            return self._chat(authorization, body, now)
        if name == "models":
            error_or_none = bad_key(authorization, self.settings)
            if error_or_none is not None:
                return Reply(status=error_or_none.status, body=error_or_none.body)
            return Reply(status=200, body=self._models(now))
        if name == "reset":
            self.reset(now=now)
        return Reply(status=200, body=orjson.dumps(self.stats().to_dict()))

    def end(self, reply: Reply, *, now: float, left: bool = False) -> None:
        """Say that a reply was sent, or that its client left before."""
        if reply.decision is None or reply.epoch != self._epoch:
            return  # it was not admitted, or all that is known of it was forgotten
        if left:
            self._tally.client_disconnects += 1
        proper = not left and reply.fault in _NO_FAULTS
        self._ledger.release(reply.decision, now=now, used=sum(reply.tokens) if proper else None)
        self._tally.in_flight -= 1
        reply.decision = None
        if proper:
            self._tally.answered += 1
            self._tally.input_tokens += reply.tokens[0]
            self._tally.output_tokens += reply.tokens[1]

    def _models(self, now: float) -> bytes:
        created = int(self._wall + now)
        names = self.settings.models or ("simulated",)
        models = [
            {"id": name, "object": "model", "created": created, "owned_by": "llmflow-simulator"}
            for name in names
        ]
        return orjson.dumps({"object": "list", "data": models})

    def _chat(self, authorization: str, body: bytes, now: float) -> Reply:
        tally, settings = self._tally, self.settings
        tally.arrive(now)
        ident = f"{settings.seed:08x}{tally.received:024x}"
        try:
            error = bad_key(authorization, settings)
            if error is not None:
                raise error
            chat = parse_chat(body, settings)
        except DialectError as error:
            tally.refused[str(error.status)] += 1
            headers = self._headers(ident, 0.0)
            return Reply(status=error.status, body=error.body, headers=headers)
        tokens = up_front_tokens(chat, settings)
        decision = self._ledger.admit(self._scope(authorization, chat.model), tokens, now=now)
        if decision.reason is None:
            tally.admit(tokens, now=now)
            return self._admitted(chat, decision, ident, now)
        tally.rejected[decision.reason] += 1
        refusal = rejection(decision, chat.model, settings)
        headers = (
            self._headers(ident, 0.0)
            + retry_headers(decision.retry_after, settings)
            + quota_headers(decision.domain, settings)
        )
        return Reply(status=refusal.status, body=refusal.body, headers=headers)

    def _admitted(self, chat: ChatRequest, decision: Decision, ident: str, now: float) -> Reply:
        said = answer(chat, style=self.settings.answer)
        fate = self._dice.roll(output_tokens=0 if chat.stream else said.tokens)
        headers = self._headers(ident, fate.latency) + quota_headers(decision.domain, self.settings)
        reply = Reply(
            status=200,
            headers=headers,
            delay=fate.latency,
            fault=fate.fault,
            decision=decision,
            epoch=self._epoch,
        )
        if fate.fault is not None:
            self._tally.faults[fate.fault] += 1
        if fate.fault in _NO_FAULTS:
            reply.tokens = (chat.prompt_tokens, said.tokens * chat.choices)
            self._fill(reply, chat, said, ident, created=int(self._wall + now))
        elif fate.fault == "garbage":
            reply.kind, reply.body = GARBAGE[self._tally.faults["garbage"] % len(GARBAGE)]
        elif fate.fault in _BROKEN:
            error = _BROKEN[fate.fault]
            reply.status, reply.body = error.status, error.body
        return reply

    def _fill(
        self, reply: Reply, chat: ChatRequest, said: Answer, ident: str, *, created: int
    ) -> None:
        if not chat.stream:
            reply.body = completion(chat, said, ident=ident, created=created)
            return
        reply.events = chunks(chat, said, ident=ident, created=created)
        reply.event_gap = self._latency.per_output_token * said.tokens / len(reply.events)

    def _scope(self, authorization: str, model: str) -> str:
        scope = self.settings.scope
        if scope == "key+model":
            return f"{authorization}\n{model}"
        return {"key": authorization, "model": model, "all": ""}[scope]

    def _headers(self, ident: str, latency: float) -> str:
        return (
            f"x-request-id: req_{ident}\r\n"
            f"openai-organization: {self.settings.organization}\r\n"
            f"openai-processing-ms: {round(latency * 1000)}\r\n"
            f"openai-version: {_VERSION}\r\n"
        )


_BROKEN = {"server_error": SERVER_ERROR, "overloaded": OVERLOADED}
