"""The kinds of settings: what each is about, and how its random settings are drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .laws import LAWS
from .setting import Setting

USUAL = (600.0, 6_000.0)
WIDE = (300.0, 60_000.0)
CPU = 0.0001
"""Seconds of a core that llmflow takes to send a request, and to handle its reply."""
TIMERS = (0.0005, 0.005)
"""Mean seconds by which asyncio's timers ring late, on an idle machine and on a busy one."""
MOST_IN_A_BUCKET = 6_000.0
"""Requests that a deep bucket holds at most, so that a run stays short."""
MOST_RUNNING = 6_000.0
"""Requests that come in at most while a bucket refills, for the same reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of settings.

    Args:
        what: what it is, in a few words.
        draw: returns what a setting has beside the usual, from a generator and a range of
            requests per minute.
        settings: how many are run at most, where that is fewer than the usual.
        ranged: whether it depends on the range.
    """

    what: str
    draw: Callable[[random.Random, tuple[float, float]], dict[str, Any]]
    settings: int | None = None
    ranged: bool = True


def _conditions(rng: random.Random, rpm: tuple[float, float]) -> dict[str, Any]:
    """Draw everything that all kinds have in common."""
    rate = math.exp(rng.uniform(math.log(rpm[0]), math.log(rpm[1]))) / 60.0
    way = rng.uniform(0.002, 0.03)
    stalls = rng.random() < 0.25
    return {
        "seed": rng.randrange(2**31),
        "rate": rate,
        "law": rng.choice(list(LAWS)),
        "latency": math.exp(rng.uniform(math.log(0.5), math.log(8.0))),
        "stamp": rng.choice(["admission", "reply"]),
        "rounding": rng.choice([1, 1, 1, 5, 10]),
        "reset": rng.random() < 0.7,
        "whole_seconds": rng.random() < 0.25,
        "way": way,
        "jitter": rng.choice([0.001, 0.003, 0.01]),
        "opening": rng.uniform(0.05, 0.3) if rng.random() < 0.25 else 3.0 * way,
        "timers": rng.uniform(0.002, 0.03) if rng.random() < 0.25 else 0.0005,
        "stall": rng.uniform(0.02, 0.15) if stalls else 0.0,
        "stall_every": rng.uniform(0.5, 3.0),
    }


def _work(rng: random.Random, rate: float, burst: float) -> int:
    """Return how many requests a bucket holds, and what comes in for some 10 to 30 seconds."""
    seconds = rng.uniform(10.0, 30.0)
    return math.ceil(rate * burst + min(MOST_RUNNING, rate * seconds))


def _slices(rng: random.Random, rpm: tuple[float, float], **given: Any) -> dict[str, Any]:
    drawn = _conditions(rng, rpm)
    return {**drawn, "n": _work(rng, drawn["rate"], 1.0), **given}


def _deep(rng: random.Random, rpm: tuple[float, float], **given: Any) -> dict[str, Any]:
    drawn = _conditions(rng, rpm)
    rate = drawn["rate"]
    burst = max(1.0, min(rng.uniform(10.0, 60.0), MOST_IN_A_BUCKET / rate))
    return {**drawn, "burst": burst, "n": _work(rng, rate, burst), **given}


def _tokens(rng: random.Random, rpm: tuple[float, float]) -> dict[str, Any]:
    drawn = _slices(rng, rpm)
    tokens = round(math.exp(rng.uniform(math.log(100.0), math.log(2_000.0))))
    rounding = rng.choice([1, 1, 1, 100, 1_000])
    return {**drawn, "tokens": tokens, "rate": drawn["rate"] * tokens, "rounding": rounding}


def _several(rng: random.Random, clients: int = 2) -> dict[str, Any]:
    return {"clients": clients, "later": rng.choice([0.0, rng.uniform(0.0, 5.0)])}


def _back_after(
    rng: random.Random, rpm: tuple[float, float], *, taken: float = 0.6, **given: Any
) -> dict[str, Any]:
    """Draw slices of which a part is not there for 10 s, and work until 25 s after that."""
    drawn = _slices(rng, rpm)
    rate = min(drawn["rate"], MOST_RUNNING / 25.0)
    n = math.ceil(rate * (1.0 + 10.0 * (1.0 - taken) + 25.0))
    part = {"rate": rate, "n": n, "taken": taken, "taken_for": 10.0}
    return {**drawn, **part, "told": rng.random() < 0.5, **given}


def _only_on_rejections(rng: random.Random, rpm: tuple[float, float]) -> dict[str, Any]:
    drawn = _back_after(rng, rpm, headers="rejections")
    return {**drawn, "rate": 5.0, "n": 300, "rounding": 1}


def _bucket_of_a_minute(law: str, stamp: str) -> Kind:
    def draw(rng: random.Random, rpm: tuple[float, float]) -> dict[str, Any]:
        return {
            "seed": rng.randrange(2**31),
            "n": 7_000,
            "rate": 100.0,
            "burst": 60.0,
            "law": law,
            "latency": 1.0,
            "stamp": stamp,
            "opening": 0.02,
            "timers": rng.uniform(*TIMERS),
            "cpu": CPU,
        }

    what = f"6,000 RPM, bucket of a minute, {law} around 1 s, headers of the {stamp}"
    return Kind(what=what, draw=draw, settings=8, ranged=False)


def _thousands_in_flight(rng: random.Random, rpm: tuple[float, float]) -> dict[str, Any]:
    return {
        "seed": rng.randrange(2**31),
        "n": 8_000,
        "rate": 500.0,
        "law": "lognormal-0.3",
        "latency": 8.0,
        "stamp": rng.choice(["admission", "reply"]),
        "opening": 0.02,
        "timers": rng.uniform(*TIMERS),
        "cpu": CPU,
    }


KINDS: dict[str, Kind] = {
    "deep": Kind(what="deep bucket of 10-60 s, RPM told", draw=_deep),
    "unknown+deep": Kind(
        what="the same, headers only",
        draw=lambda rng, rpm: _deep(rng, rpm, told=False),
    ),
    "rpm": Kind(what="RPM in slices of 1 s, told", draw=_slices),
    "tpm": Kind(what="TPM in slices of 1 s, told, charges known", draw=_tokens),
    "unknown": Kind(
        what="RPM in slices of 1 s, headers only",
        draw=lambda rng, rpm: _slices(rng, rpm, told=False),
    ),
    "shared-deep": Kind(
        what="two clients, one deep bucket",
        draw=lambda rng, rpm: _deep(rng, rpm, **_several(rng)),
    ),
    "shared": Kind(
        what="two clients, slices of 1 s",
        draw=lambda rng, rpm: _slices(rng, rpm, **_several(rng)),
    ),
    "shared-4": Kind(
        what="four clients, slices of 1 s",
        draw=lambda rng, rpm: _slices(rng, rpm, **_several(rng, 4)),
        settings=100,
    ),
    "shares-told": Kind(
        what="two to four clients, slices of 1 s, each told its share, some the limit",
        draw=lambda rng, rpm: _slices(
            rng,
            rpm,
            clients=rng.choice([2, 3, 4]),
            keeps_share=True,
            told=rng.random() < 0.5,
        ),
        settings=100,
    ),
    "minute-headers": Kind(
        what="headers of a minute, slices of 1 s",
        draw=lambda rng, rpm: _slices(rng, rpm, header_burst=60.0),
    ),
    "headers-on-429": Kind(
        what="headers only on 429s, 300 RPM, 60% taken for 10 s",
        draw=_only_on_rejections,
        ranged=False,
    ),
    "headers-stop": Kind(
        what="60% taken for 10 s, headers for 5 s",
        draw=lambda rng, rpm: _back_after(rng, rpm, headers_until=5.0),
        settings=100,
    ),
    "wrong-headers": Kind(
        what="60% taken for 10 s, headers of an account with 0 to 5% left",
        draw=lambda rng, rpm: _back_after(rng, rpm, header_level=rng.uniform(0.0, 0.05)),
        settings=100,
    ),
    "wrong-minute": Kind(
        what="60% taken for 10 s, headers of a minute",
        draw=lambda rng, rpm: _back_after(rng, rpm, header_burst=60.0),
        settings=100,
    ),
    "limit-falls": Kind(
        what="the limit falls to a third for 10 s, and the headers name it",
        draw=lambda rng, rpm: _back_after(rng, rpm, taken=2.0 / 3.0, lowered=True),
        settings=100,
    ),
    "minute-uniform-admission": _bucket_of_a_minute("uniform", "admission"),
    "minute-uniform-reply": _bucket_of_a_minute("uniform", "reply"),
    "minute-lognormal-admission": _bucket_of_a_minute("lognormal-0.6", "admission"),
    "minute-lognormal-reply": _bucket_of_a_minute("lognormal-0.6", "reply"),
    "30000-rpm": Kind(
        what="30,000 RPM in slices of 1 s, lognormal-0.3 around 8 s, told",
        draw=_thousands_in_flight,
        settings=4,
        ranged=False,
    ),
}


def draw(kind: str, index: int, *, seed: int, wide: bool = False, in_flight: int) -> Setting:
    """Return the random setting of a kind with an index, the same one every time."""
    rng = random.Random(f"{seed} {kind} {index} {'wide' if wide else 'usual'}")
    drawn = KINDS[kind].draw(rng, WIDE if wide else USUAL)
    return Setting(**drawn, in_flight=in_flight)
