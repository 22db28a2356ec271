"""The scenarios in which the provider's quota sets the pace: how near to it, at what cost.

Latencies have a tail. The ideal is that of a client that knows everything, with the latencies
that were drawn in the run (`ideal`). Work is counted as the simulator charges it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ideal import ideal_of, ideal_of_run

from llmflow import LLM, Quota
from llmflow.simulator import Admission, Faults, Latency, SimulatorSettings
from llmflow.simulator.hosting import raise_limit_of_descriptors
from scenarios.measure import (
    KEY,
    Options,
    judged,
    peak_mb,
    prompts,
    reset,
    server,
    through_llmflow,
    timeline,
)

RECORDED_PER_ITEM = 4  # admissions, of which some are of requests that failed and came again


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """A simulator, what the client is told of it, the work, and what is expected.

    Args:
        what: the settings in words.
        n: items.
        settings: the simulator's.
        most: target of seconds / ideal.
        most_rejected: target of rejections / items; None for no target.
        most_peak: target of the client's peak of memory in MB; None for no target.
        quota: what the client is told.
        texts: makes the prompts.
        model: the provider and model asked.
        max_tokens: sent with each request.
        plot: the unit of the plot's first panel.
    """

    what: str
    n: int
    settings: Mapping[str, Any]
    most: float
    most_rejected: float | None
    most_peak: float | None = None
    quota: Quota | None = None
    texts: Callable[[int], list[str]] = prompts
    model: str = "openai/bench"
    max_tokens: int | None = None
    plot: str = "requests"

    def expected(self, texts: Sequence[str]) -> float:
        """Return the ideal with the mean latency for all, of OpenAI's rules: known before."""
        settings = SimulatorSettings(**self.settings)
        latency = settings.latency
        assert isinstance(latency, Latency)
        return ideal_of(
            settings,
            (
                Admission(0.0, latency.mean, openai_tokens(text), len(text) // 4, 0.0, 0, None)
                for text in texts
            ),
        )


def openai_tokens(text: str) -> int:
    """Return what the simulator charges a prompt without max_tokens: a token per 4 characters."""
    return max(16, -(-len(text) // 4))


def run_paced(name: str, scenario: Paced, options: Options) -> dict[str, Any]:
    """Run a scenario once, and return its figures."""
    _check(scenario)
    n = options.n or scenario.n
    texts = scenario.texts(n)
    settings = {**scenario.settings, "record": RECORDED_PER_ITEM * n, "seed": options.seed}
    raise_limit_of_descriptors()  # as a program may
    with server(**settings) as sim:
        llm = LLM(scenario.model, base_url=sim.url, api_key=KEY, quota=scenario.quota)
        llm.prepare()
        echo = scenario.settings["answer"] == "echo"
        reset(sim)  # the schedule begins now
        began = time.monotonic()
        did = asyncio.run(through_llmflow(llm, texts, echo=echo, max_tokens=scenario.max_tokens))
        peak = peak_mb()
        seen, admitted = sim.stats(), sim.admissions()
    ideal = ideal_of_run(SimulatorSettings(**settings), admitted, began=began)
    result = {
        "what": scenario.what,
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
        "peak_mb": peak,
        "plot": scenario.plot,
        "settings": plain(scenario.settings),
        "timeline": timeline(seen),
    }
    return judged(
        result,
        most=scenario.most,
        most_rejected=scenario.most_rejected,
        most_peak=scenario.most_peak,
    )


def _check(scenario: Paced) -> None:
    """Say what this version of llmflow lacks for a scenario."""
    native = scenario.model.partition("/")[0]
    if importlib.util.find_spec(f"llmflow_providers.{native}") is None:
        raise SystemExit(f"llmflow has no native provider {native!r} yet: {scenario.what}")
    lacking = scenario.settings.keys() - SimulatorSettings.__dataclass_fields__.keys()
    if lacking:
        raise SystemExit(f"the simulator has no settings {', '.join(sorted(lacking))} yet")


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
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
