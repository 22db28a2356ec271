"""One setting: what the provider is like, the network, the client's loop, and the work."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that a run is determined by.

    Args:
        seed: of all that is drawn during the run.
        n: requests, of all clients together.
        rate: what the provider allows per second: requests, or tokens where `tokens` is set.
        burst: seconds' worth of the rate that its bucket holds.
        tokens: mean tokens of a request, where tokens are limited; else 0.
        law: the law of latency, a name of `LAWS`.
        latency: its mean in seconds.
        stamp: which moment the headers speak of: ``"admission"`` or ``"reply"``.
        headers: ``"all"`` replies have them, or ``"rejections"`` alone.
        header_burst: seconds' worth of the bucket that the headers describe, where that is
            another than the one that admits; else 0.
        headers_until: when headers stop coming, with answers and rejections.
        header_level: the part of the bucket that `remaining` always says is left, as the
            headers of another account might; None: what is left.
        rounding: `remaining` is a multiple of this.
        reset: whether the headers have `reset`.
        whole_seconds: whether `reset` and Retry-After are rounded up to whole seconds.
        way: mean seconds from the client to the provider, and back.
        jitter: mean of what is added to each way, exponentially distributed.
        opening: mean seconds that a new connection takes to open, beside the way itself.
        timers: mean seconds by which timers ring late.
        stall: mean seconds for which the client's loop is kept from its work at a time; what
            arrives meanwhile is handled in a clump. 0: never.
        stall_every: mean seconds from one stall to the next.
        cpu: seconds of the client's loop that sending a request takes, and handling its reply.
        clients: programs that spend the same quota and do not know of each other.
        later: seconds after which each further client begins.
        keeps_share: whether each is told that it has an equal share of the quota.
        told: whether the clients are told the limit; else they see headers only.
        taken: the part of the rate that is not there at first: others take it.
        taken_for: for how many seconds.
        lowered: whether it is not others who take it, but the limit that is so much lower; the
            headers name the lower one.
        in_flight: the cap on requests in flight of each client.
    """

    seed: int
    n: int
    rate: float
    burst: float = 1.0
    tokens: int = 0
    law: str = "constant"
    latency: float = 1.0
    stamp: str = "admission"
    headers: str = "all"
    header_burst: float = 0.0
    headers_until: float = math.inf
    header_level: float | None = None
    rounding: int = 1
    reset: bool = True
    whole_seconds: bool = False
    way: float = 0.005
    jitter: float = 0.002
    opening: float = 0.0
    timers: float = 0.0
    stall: float = 0.0
    stall_every: float = 1.0
    cpu: float = 0.0
    clients: int = 1
    later: float = 0.0
    keeps_share: bool = False
    told: bool = True
    taken: float = 0.0
    taken_for: float = 0.0
    lowered: bool = False
    in_flight: int = 10_000

    def __str__(self) -> str:
        defaults = {each.name: each.default for each in fields(self)}
        parts = []
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(
                    f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                )
        return " ".join(parts)
