"""The simulated provider without its sockets: a request in, its fate out.

Everything that decides is synchronous and takes the time as an argument, so
that the same provider runs behind real HTTP and on a virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from llmflow.simulator.answer import answer
from llmflow.simulator.batches.store import BatchCounts
from llmflow.simulator.dialect import Dialect, retry_headers
from llmflow.simulator.exchange import Answer, Call, DialectError
from llmflow.simulator.faults import Dice, Latency
from llmflow.simulator.known_dialects import dialects
from llmflow.simulator.quota import Charge, Decision, Ledger
from llmflow.simulator.settings import SimulatorSettings
from llmflow.simulator.stats import Admission, Admissions, AdmissionTally, SimulatorStats, Tally
from llmflow.simulator.wrong_answer import Mistakes, WrongKind

_ROUTES = {
    "/models": ("GET", "models"),
    "/stats": ("GET", "stats"),
    "/admissions": ("GET", "admissions"),
    "/reset": ("POST", "reset"),
}
_NO_FAULTS = (None, "slow", "straggler")


class _Side(NamedTuple):
    """One dialect of the provider, with quotas of its own."""

    dialect: Dialect
    ledger: Ledger


@dataclass(slots=True, kw_only=True)
class Reply:
    """The provider's answer, and its time.

    Args:
        status: HTTP status.
        body: the whole body; for a stream, all of its events.
        headers: header lines beside those of the content; `Engine.leave` may add some.
        kind: the content type.
        delay: seconds from the request's arrival to the answer.
        fault: the fault injected, or None. ``reset`` and ``hang`` have no answer.
        events: the server-sent events of a streamed answer, or None.
        event_gap: seconds between two of them.
        decision: the admission to release at the end; None if nothing was admitted.
        side: the dialect of the request that was admitted, with its quotas.
        call: that request.
        tokens: input and output tokens of a proper answer.
        wrong: what is wrong on purpose with the answer to a schema.
        produced: tokens that are charged while the answer is produced.
        used: what the request is settled to when it is answered; None leaves its charge.
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
    side: _Side | None = None
    call: Any = None
    tokens: tuple[int, int] = (0, 0)
    wrong: WrongKind | None = None
    produced: int = 0
    used: Charge | None = None
    epoch: int = 0


class Engine:
    """Answers requests as the provider would, in the dialect of each.

    >>> engine = Engine(SimulatorSettings(), now=0.0)
    >>> engine.receive("GET", "/v1/models", headers={}, body=b"", now=0.0).status
    200

    Args:
        settings: what the provider is set to.
        now: the time at which it starts, on the clock of all later calls.
        wall: the time of day then, in seconds since 1970.
        batches: returns what the batch APIs have counted, which are not the engine's.

    """

    def __init__(
        self,
        settings: SimulatorSettings,
        *,
        now: float,
        wall: float = 0.0,
        batches: Callable[[], BatchCounts] = BatchCounts,
    ) -> None:
        self.settings = settings
        self._batches = batches
        self._wall = wall - now
        self._epoch = 0
        self._others = 0
        self.reset(now=now)

    def reset(self, *, now: float) -> None:
        """Start anew: full buckets, zero counts, chance from its seed."""
        self._epoch += 1
        settings = self.settings
        assert isinstance(settings.latency, Latency)
        self._latency = settings.latency
        self._sides = tuple(
            _Side(
                dialect,
                Ledger(
                    settings,
                    now=now,
                    rejections_cost=dialect.charges_rejections and settings.rejections_cost,
                ),
            )
            for dialect in dialects(settings, wall=self._wall)
        )
        self._asked = {side.dialect.path: side for side in self._sides}
        self._dice = Dice(self._latency, settings.faults, seed=settings.seed)
        self._mistakes = Mistakes(settings.invalid_answer_rate, seed=settings.seed)
        self._tally = Tally(now=now)
        self._admissions = AdmissionTally(settings.record, now=now) if settings.record else None
        told = settings.headers_on == "all"
        self._told_at_admission = told and settings.headers_at == "admission"
        self._told_at_reply = told and settings.headers_at == "reply"

    def admissions(self) -> Admissions:
        """Return what was recorded of each admission; nothing unless `record` is set."""
        if self._admissions is None:
            return Admissions(started=self._tally.started, dropped=self._tally.admitted, rows=())
        return self._admissions.snapshot()

    def stats(self) -> SimulatorStats:
        """Return what was counted so far."""
        return self._tally.snapshot(batches=self._batches())

    def receive(
        self, method: str, target: str, *, headers: Mapping[str, str], body: bytes, now: float
    ) -> Reply:
        """Decide what becomes of a request that arrives now."""
        path = _path(target)
        side = self._side(path, headers)
        model = path.removeprefix("/models/") if path.startswith("/models/") else ""
        route = ("GET", "models") if model else _ROUTES.get(path)
        if path in self._asked:
            route = ("POST", "ask")
        if route is None:
            return self._refuse(
                side, side.dialect.error.of("path", method=method, path=urlsplit(target).path)
            )
        allowed, name = route
        if method != allowed:
            reply = self._refuse(side, side.dialect.error.of("method", allowed=allowed))
            reply.headers += f"allow: {allowed}\r\n"
            return reply
        if name == "ask":
            return self._ask(side, headers, body, now)
        if name == "models":
            return self._models(side, headers, unquote(model), now)
        if name == "admissions":
            return Reply(status=200, body=orjson.dumps(self.admissions().to_dict()))
        if name == "reset":
            self.reset(now=now)
        return Reply(status=200, body=orjson.dumps(self.stats().to_dict()))

    def refuse(self, status: int, message: str, *, target: str) -> tuple[str, bytes]:
        """Return header lines and body for a request that is unreadable."""
        side = self._side(_path(target), {})
        reply = self._refuse(side, side.dialect.error(status, message))
        return reply.headers, reply.body

    def _refuse(self, side: _Side, error: DialectError) -> Reply:
        """Refuse a request that does not ask for an answer."""
        ident = self._other()
        return _refused(error, ident, side.dialect.headers(ident, 0.0))

    def _other(self) -> str:
        """Return the identifier of such a request."""
        self._others += 1
        return f"{self.settings.seed:08x}e{self._others:023x}"

    def _models(self, side: _Side, headers: Mapping[str, str], model: str, now: float) -> Reply:
        """Answer with a model, or with the list of all."""
        dialect = side.dialect
        try:
            dialect.check_key(headers)
            body = dialect.model(headers, model, now=now)
        except DialectError as error:
            return self._refuse(side, error)
        return Reply(status=200, body=body, headers=dialect.headers(self._other(), 0.0))

    def leave(self, reply: Reply, *, now: float) -> None:
        """Add the quota headers of this moment to a reply."""
        decision, side = reply.decision, reply.side
        if self._told_at_reply and decision is not None and side is not None:
            decision.domain.refill(now)
            reply.headers += side.dialect.quota_headers(decision.domain, now=now)

    def end(self, reply: Reply, *, now: float, left: bool = False) -> None:
        """Say that a reply was sent, or that its client left before."""
        decision, side = reply.decision, reply.side
        if decision is None or side is None or reply.epoch != self._epoch:
            return  # it was not admitted, or all that is known of it was forgotten
        if left:
            self._tally.client_disconnects += 1
        proper = not left and reply.fault in _NO_FAULTS
        charged = side.ledger.release(decision, now=now, used=reply.used if proper else None)
        self._tally.end(charged - reply.call.charge.tokens, now=now)
        reply.decision = None
        if proper:
            side.dialect.answered(reply.call, now=now)
            self._tally.answer(*reply.tokens, now=now)
            if reply.wrong is not None:
                self._tally.invalid_answers[reply.wrong] += 1

    def _side(self, path: str, headers: Mapping[str, str]) -> _Side:
        asked = self._asked.get(path)
        if asked is not None:
            return asked
        claims = (side for side in self._sides if side.dialect.claims(path, headers))
        return next(claims, self._sides[-1])

    def _ask(self, side: _Side, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        tally, dialect = self._tally, side.dialect
        tally.arrive(now)
        ident = f"{self.settings.seed:08x}{tally.received:024x}"
        try:
            dialect.check_key(headers)
            call: Call = dialect.read(headers, body, now=now)
        except DialectError as error:
            tally.refused[str(error.status)] += 1
            return _refused(error, ident, dialect.headers(ident, 0.0))
        scope = self._scope(dialect.key(headers), call.model)
        decision = side.ledger.admit(scope, call.charge, now=now)
        if decision.reason is None:
            tally.admit(call.charge.tokens, now=now)
            return self._admitted(side, call, decision, ident, now)
        tally.reject(decision.reason, now=now)
        lines = (
            dialect.headers(ident, 0.0)
            + retry_headers(decision.retry_after, self.settings)
            + dialect.quota_headers(decision.domain, now=now)
        )
        return _refused(dialect.rejection(decision, call, now=now), ident, lines)

    def _admitted(
        self, side: _Side, call: Call, decision: Decision, ident: str, now: float
    ) -> Reply:
        dialect = side.dialect
        settings = self.settings
        said = answer(
            call, style=settings.answer, mistakes=self._mistakes, varied=settings.varied_values
        )
        fate = self._dice.roll(output_tokens=0 if call.stream else said.tokens)
        headers = dialect.headers(ident, fate.latency)
        if self._told_at_admission:
            headers += dialect.quota_headers(decision.domain, now=now)
        reply = Reply(
            status=200,
            headers=headers,
            delay=fate.latency,
            fault=fate.fault,
            decision=decision,
            side=side,
            call=call,
            epoch=self._epoch,
        )
        if fate.fault is not None:
            self._tally.faults[fate.fault] += 1
        if fate.fault in _NO_FAULTS:
            self._fill(reply, side, said, ident, now)
        elif fate.fault == "garbage":
            bodies = dialect.garbage
            reply.kind, reply.body = bodies[self._tally.faults["garbage"] % len(bodies)]
        elif fate.fault in ("server_error", "overloaded"):
            error = dialect.error.of(fate.fault)
            reply.status, reply.body = error.status, error.body(ident)
        if self._admissions is not None:
            self._admissions.add(_admission(reply, now=now))
        return reply

    def _fill(self, reply: Reply, side: _Side, said: Answer, ident: str, now: float) -> None:
        """Put the answer into a reply, and charge its production."""
        dialect, call, seconds = side.dialect, reply.call, reply.delay
        reply.tokens = (call.prompt_tokens, said.tokens * call.choices)
        reply.wrong = said.wrong
        reply.used, created = dialect.used(call, said), dialect.created(now)
        if call.stream:
            reply.events = dialect.events(call, said, ident=ident, created=created)
            reply.event_gap = self._latency.per_output_token * said.tokens / len(reply.events)
            seconds += reply.event_gap * len(reply.events)
        else:
            reply.body = dialect.whole(call, said, ident=ident, created=created)
        tokens = reply.produced = dialect.produced(said)
        if tokens and reply.decision is not None:
            side.ledger.produce(reply.decision, tokens, seconds=seconds, now=now)

    def _scope(self, key: str, model: str) -> str:
        scope = self.settings.scope
        if scope == "key+model":
            return f"{key}\n{model}"
        return {"key": key, "model": model, "all": ""}[scope]


def _admission(reply: Reply, *, now: float) -> Admission:
    seconds = reply.delay + reply.event_gap * len(reply.events or ())
    total, given, output = reply.call.charge
    return Admission(now, seconds, total, given, output, reply.produced, reply.fault)


def _path(target: str) -> str:
    path = urlsplit(target).path if "?" in target or "//" in target else target
    return path.removeprefix("/v1").rstrip("/")


def _refused(error: DialectError, ident: str, headers: str) -> Reply:
    return Reply(status=error.status, body=error.body(ident), headers=headers)
