"""The quotas of the paced scenarios, the work, and what is expected of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmflow import Quota
from llmflow.simulator import Faults, Latency
from scenarios.measure import lognormal_prompts, stories
from scenarios.paced import Paced

RPM = 6_000.0
FAULTS = Faults(server_error=0.05, overloaded=0.05, reset=0.03, garbage=0.01)
SHRINK = ((0.0, 1.0), (5.0, 0.5), (15.0, 1.0))
TAIL = 0.5
"""Sigma of the latencies, unless a scenario says otherwise."""

RPM_SETTINGS: Mapping[str, Any] = {
    "rpm": RPM,
    "burst_seconds": 1.0,
    "latency": Latency.around(1.0, sigma=TAIL),
    "answer": "echo",
}
WIDE_RPM = 30_000.0
_KNOWN = Quota(rpm=RPM, burst_seconds=1.0)
_SPARSE = {
    **RPM_SETTINGS,
    "rpm": 300.0,
    "headers_on": "rejections",
    "others": ((0.0, 0.6), (10.0, 0.0)),
}
_UNIFORM = Latency(seconds=1.0, spread=0.5)
_LOGNORMAL = Latency.around(1.0, sigma=0.6)
_DEEP: Mapping[str, tuple[str, Latency, str]] = {
    "deep_uniform": ("uniform from 0.5 to 1.5 s", _UNIFORM, "admission"),
    "deep_uniform_reply": ("uniform from 0.5 to 1.5 s", _UNIFORM, "reply"),
    "deep_tail": ("lognormal(0.6) around 1 s", _LOGNORMAL, "admission"),
    "deep_tail_reply": ("lognormal(0.6) around 1 s", _LOGNORMAL, "reply"),
}


def _deep(law: str, latency: Latency, headers_at: str) -> Paced:
    """Return a variant of `deep`: another law of latency, another moment of headers."""
    return Paced(
        what=f"as deep, latency {law}, headers of the {headers_at}",
        n=7000,
        settings={
            **RPM_SETTINGS,
            "burst_seconds": 60.0,
            "latency": latency,
            "headers_at": headers_at,
        },
        quota=Quota(rpm=RPM),
        most=1.05,
        most_rejected=0.001,
    )


PACED: dict[str, Paced] = {
    "rpm": Paced(
        what="6,000 RPM enforced in slices of 1 s, latency lognormal(0.5) around 1 s, quota known",
        n=2000,
        settings=RPM_SETTINGS,
        quota=_KNOWN,
        most=1.03,
        most_rejected=0.003,
    ),
    "tpm": Paced(
        what="600k TPM enforced in slices of 1 s, sizes lognormal(0.8) around 150 tokens, "
        "latency as rpm, quota known",
        n=1500,
        settings={**RPM_SETTINGS, "rpm": None, "tpm": 600_000},
        quota=Quota(tpm=600_000, burst_seconds=1.0),
        texts=lambda n: lognormal_prompts(n, median_tokens=150, sigma=0.8, seed=1),
        most=1.05,
        most_rejected=0.01,
        plot="tokens",
    ),
    "io": Paced(
        what="Anthropic's rules, 200k ITPM and 40k OTPM enforced in slices of 1 s, prompts "
        "lognormal(0.5) around 250 tokens, answers of any length up to max_tokens=500 charged "
        "as they are produced, latency lognormal(0.5) around 0.5 s + 10 ms per token, quota known",
        n=300,
        settings={
            "itpm": 200_000,
            "otpm": 40_000,
            "burst_seconds": 1.0,
            "latency": Latency.around(0.5, sigma=TAIL, per_output_token=0.01),
            "answer": "summary",
        },
        quota=Quota(itpm=200_000, otpm=40_000, burst_seconds=1.0),
        texts=lambda n: stories(n, median_tokens=250, sigma=0.5, seed=2),
        model="anthropic/bench",
        max_tokens=500,
        most=1.08,
        most_rejected=0.01,
        plot="tokens",
    ),
    "unknown": Paced(
        what="as rpm, but the client is told nothing: headers only",
        n=2000,
        settings=RPM_SETTINGS,
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
        most=1.35,
        most_rejected=0.05,
    ),
    "deep": Paced(
        what="6,000 RPM in a bucket of a whole minute, latency as rpm; the client is told the "
        "RPM, not the depth",
        n=8000,
        settings={**RPM_SETTINGS, "burst_seconds": 60.0},
        quota=Quota(rpm=RPM),
        most=1.10,
        most_rejected=None,
    ),
    **{name: _deep(*words) for name, words in _DEEP.items()},
    "wide": Paced(
        what="30,000 RPM enforced in slices of 1 s, latency lognormal(0.3) around 8 s: 4,000 in "
        "flight, quota known",
        n=8000,
        settings={
            **RPM_SETTINGS,
            "rpm": WIDE_RPM,
            "latency": Latency.around(8.0, sigma=0.3),
        },
        quota=Quota(rpm=WIDE_RPM, burst_seconds=1.0),
        most=1.05,
        most_rejected=0.005,
        most_peak=250.0,
    ),
    "sparse": Paced(
        what="300 RPM enforced in slices of 1 s, latency as rpm, headers on 429s only; others "
        "take 60% for the first 10 s; the client is told nothing",
        n=300,
        settings=_SPARSE,
        most=1.25,
        most_rejected=None,
    ),
    "sparse_known": Paced(
        what="as sparse, but the client is told the 300 RPM",
        n=300,
        settings=_SPARSE,
        quota=Quota(rpm=300, burst_seconds=1.0),
        most=1.25,
        most_rejected=None,
    ),
    "shrink": Paced(
        what="as rpm, quota known; half of it is gone from second 5 to second 15",
        n=2000,
        settings={**RPM_SETTINGS, "schedule": SHRINK},
        quota=_KNOWN,
        most=1.10,
        most_rejected=0.02,
    ),
    "faults": Paced(
        what="as rpm, latency around 0.5 s; of the admitted 5% end in a 500, 5% in a 503, 3% in a "
        "reset, 1% in garbage",
        n=1000,
        settings={**RPM_SETTINGS, "latency": Latency.around(0.5, sigma=TAIL), "faults": FAULTS},
        quota=_KNOWN,
        most=1.15,
        most_rejected=None,
    ),
}
