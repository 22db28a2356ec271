"""The scenarios in which the provider's quota sets the pace: how near to it, at what cost.

The ideal is what a client could reach that knew everything: what the bucket does not hold
has to come in at the quota's rate, and the last answer takes its latency. Work is counted
as the simulator charges it.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmflow import LLM, Quota
from llmflow.simulator import Faults, Latency, SimulatorSettings, SimulatorStats
from scenarios.measure import (
    KEY,
    Options,
    judged,
    lognormal_prompts,
    prompts,
    reset,
    server,
    stories,
    through_llmflow,
    timeline,
)

RPM = 6_000.0
FAULTS = Faults(server_error=0.05, overloaded=0.05, reset=0.03, garbage=0.01)
FAULTY = FAULTS.server_error + FAULTS.overloaded + FAULTS.reset + FAULTS.garbage
SHRINK = ((0.0, 1.0), (5.0, 0.5), (15.0, 1.0))

Ideal = Callable[[Sequence[str], SimulatorStats | None], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """A simulator, what the client is told of it, the work, and what is expected.

    Args:
        what: the settings in words.
        n: items.
        settings: the simulator's.
        ideal: seconds, from the prompts and what the simulator charged for them.
        formula: the same in words.
        most: target of seconds / ideal.
        most_rejected: target of rejections / items; None for no target.
        quota: what the client is told.
        texts: makes the prompts.
        model: the provider and model asked.
        max_tokens: sent with each request.
        plot: the unit of the plot's first panel.
    """

    what: str
    n: int
    settings: Mapping[str, Any]
    ideal: Ideal
    formula: str
    most: float
    most_rejected: float | None
    quota: Quota | None = None
    texts: Callable[[int], list[str]] = prompts
    model: str = "openai/bench"
    max_tokens: int | None = None
    plot: str = "requests"


def beyond_the_burst(work: float, *, per_minute: float, burst: float) -> float:
    """Return the seconds in which what the full bucket does not hold comes in."""
    rate = per_minute / 60
    return max(0.0, work - rate * burst) / rate


def _requests(*, burst: float = 1.0, latency: float = 1.0, sent_again: float = 0.0) -> Ideal:
    def ideal(texts: Sequence[str], stats: SimulatorStats | None) -> float:
        sends = len(texts) / (1 - sent_again)
        return beyond_the_burst(sends, per_minute=RPM, burst=burst) + latency

    return ideal


def openai_tokens(text: str) -> int:
    """Return what the simulator charges a prompt without max_tokens: a token per 4 characters."""
    return max(16, -(-len(text) // 4))


def _tokens(texts: Sequence[str], stats: SimulatorStats | None) -> float:
    work = sum(openai_tokens(text) for text in texts)
    return beyond_the_burst(work, per_minute=600_000, burst=1) + 1.0


def _input_and_output(texts: Sequence[str], stats: SimulatorStats | None) -> float:
    assert stats is not None
    seconds = max(
        beyond_the_burst(stats.input_tokens, per_minute=200_000, burst=1),
        beyond_the_burst(stats.output_tokens, per_minute=40_000, burst=1),
    )
    return seconds + 0.5 + 0.01 * stats.output_tokens / len(texts)


def _shrunk(texts: Sequence[str], stats: SimulatorStats | None) -> float:
    """Let the quota come in step by step until there was enough of it."""
    left, rate = len(texts) - RPM / 60, RPM / 60
    for (begin, factor), (end, _) in zip(SHRINK, (*SHRINK[1:], (1e9, 1.0)), strict=True):
        if left <= rate * factor * (end - begin):
            return begin + max(0.0, left) / (rate * factor) + 1.0
        left -= rate * factor * (end - begin)
    raise AssertionError("the last step has no end")


RPM_SETTINGS: Mapping[str, Any] = {
    "rpm": RPM,
    "burst_seconds": 1.0,
    "latency": Latency(seconds=1.0),
    "answer": "echo",
}
_KNOWN = Quota(rpm=RPM, burst_seconds=1.0)

PACED: dict[str, Paced] = {
    "rpm": Paced(
        what="6,000 RPM enforced in slices of 1 s, latency 1 s, quota known",
        n=2000,
        settings=RPM_SETTINGS,
        quota=_KNOWN,
        ideal=_requests(),
        formula="(n - 100) / 100 per s + 1 s",
        most=1.03,
        most_rejected=0.003,
    ),
    "tpm": Paced(
        what="600k TPM enforced in slices of 1 s, sizes lognormal(0.8) around 150 tokens, "
        "latency 1 s, quota known",
        n=1500,
        settings={**RPM_SETTINGS, "rpm": None, "tpm": 600_000},
        quota=Quota(tpm=600_000, burst_seconds=1.0),
        texts=lambda n: lognormal_prompts(n, median_tokens=150, sigma=0.8, seed=1),
        ideal=_tokens,
        formula="(tokens charged - 10,000) / 10,000 per s + 1 s",
        most=1.05,
        most_rejected=0.01,
        plot="tokens",
    ),
    "io": Paced(
        what="Anthropic's rules, 200k ITPM and 40k OTPM enforced in slices of 1 s, prompts "
        "lognormal(0.5) around 250 tokens, answers of any length up to max_tokens=500 charged "
        "as they are produced, latency 0.5 s + 10 ms per token, quota known",
        n=300,
        settings={
            "itpm": 200_000,
            "otpm": 40_000,
            "burst_seconds": 1.0,
            "latency": Latency(seconds=0.5, per_output_token=0.01),
            "answer": "summary",
        },
        quota=Quota(itpm=200_000, otpm=40_000, burst_seconds=1.0),
        texts=lambda n: stories(n, median_tokens=250, sigma=0.5, seed=2),
        model="anthropic/bench",
        max_tokens=500,
        ideal=_input_and_output,
        formula="the larger of (input - 3,333) / 3,333 per s and (output - 667) / 667 per s, "
        "plus the mean latency",
        most=1.08,
        most_rejected=0.01,
        plot="tokens",
    ),
    "unknown": Paced(
        what="as rpm, but the client is told nothing: headers only",
        n=2000,
        settings=RPM_SETTINGS,
        ideal=_requests(),
        formula="(n - 100) / 100 per s + 1 s",
        most=1.10,
        most_rejected=0.01,
    ),
    "blind": Paced(
        what="as rpm, told nothing; no headers at all, no Retry-After, no time in messages",
        n=2000,
        settings={
            **RPM_SETTINGS,
            "quota_headers": "off",
            "retry_after": False,
            "retry_text": False,
        },
        ideal=_requests(),
        formula="(n - 100) / 100 per s + 1 s",
        most=1.35,
        most_rejected=0.05,
    ),
    "deep": Paced(
        what="6,000 RPM in a bucket of a whole minute, latency 1 s; the client is told the "
        "RPM, not the depth",
        n=8000,
        settings={**RPM_SETTINGS, "burst_seconds": 60.0},
        quota=Quota(rpm=RPM),
        ideal=_requests(burst=60.0),
        formula="(n - 6,000) / 100 per s + 1 s",
        most=1.10,
        most_rejected=None,
    ),
    "shrink": Paced(
        what="as rpm, quota known; half of it is gone from second 5 to second 15",
        n=2000,
        settings={**RPM_SETTINGS, "schedule": SHRINK},
        quota=_KNOWN,
        ideal=_shrunk,
        formula="100 at once, 100 per s for 5 s, 50 per s for 10 s, then 100 per s, + 1 s",
        most=1.10,
        most_rejected=0.02,
    ),
    "faults": Paced(
        what="as rpm, latency 0.5 s; of the admitted 5% end in a 500, 5% in a 503, 3% in a "
        "reset, 1% in garbage",
        n=1000,
        settings={**RPM_SETTINGS, "latency": Latency(seconds=0.5), "faults": FAULTS},
        quota=_KNOWN,
        ideal=_requests(latency=0.5, sent_again=FAULTY),
        formula="(n / 0.86 - 100) / 100 per s + 0.5 s: what fails was charged, too",
        most=1.15,
        most_rejected=None,
    ),
}


def run_paced(name: str, scenario: Paced, options: Options) -> dict[str, Any]:
    """Run a scenario once, and return its figures."""
    _check(scenario)
    n = options.n or scenario.n
    texts = scenario.texts(n)
    with server(**scenario.settings) as sim:
        llm = LLM(scenario.model, base_url=sim.url, api_key=KEY, quota=scenario.quota)
        llm.prepare()
        echo = scenario.settings["answer"] == "echo"
        reset(sim)  # the schedule begins now
        did = asyncio.run(through_llmflow(llm, texts, echo=echo, max_tokens=scenario.max_tokens))
        seen = sim.stats()
    ideal = scenario.ideal(texts, seen)
    result = {
        "what": scenario.what,
        "formula": scenario.formula,
        "n": n,
        "seconds": did.seconds,
        "ideal": ideal,
        "ratio": did.seconds / ideal,
        "rejected": seen.rejections / n,
        "lost": did.lost,
        "errors": did.errors,
        "rejections": dict(seen.rejected),
        "faults": dict(seen.faults),
        "sent": seen.received,
        "max_in_flight": seen.max_in_flight,
        "cpu_us": did.cpu_us,
        "plot": scenario.plot,
        "settings": _plain(scenario.settings),
        "timeline": timeline(seen),
    }
    return judged(result, most=scenario.most, most_rejected=scenario.most_rejected)


def _check(scenario: Paced) -> None:
    """Say what this version of llmflow lacks for a scenario."""
    native = scenario.model.partition("/")[0]
    if importlib.util.find_spec(f"llmflow_providers.{native}") is None:
        raise SystemExit(f"llmflow has no native provider {native!r} yet: {scenario.what}")
    lacking = scenario.settings.keys() - SimulatorSettings.__dataclass_fields__.keys()
    if lacking:
        raise SystemExit(f"the simulator has no settings {', '.join(sorted(lacking))} yet")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON can hold them, the defaults inside left out."""
    return {
        key: _set_ones(value) if isinstance(value, Latency | Faults) else value
        for key, value in settings.items()
        if value is not None
    }


def _set_ones(value: Latency | Faults) -> dict[str, float]:
    default = type(value)()
    pairs = ((name, getattr(value, name)) for name in type(value).__slots__)
    return {name: each for name, each in pairs if each != getattr(default, name)}
