"""Targets of admission on the held-out seed, kind by kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The most that a kind may come to.

    Args:
        ratio: the time taken over the ideal, at the 95th percentile.
        rejected: rejections in percent of the requests, at the 95th percentile.
        mean: rejections in percent, on average.
        back: the least part of the quota that is used again, at the 5th percentile.
    """

    ratio: float | None = None
    rejected: float | None = None
    mean: float | None = None
    back: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.ratio is not None:
            parts.append(f"p95 <= {self.ratio:.2f}x")
        if self.rejected is not None:
            parts.append(f"rejected p95 <= {self.rejected:g}%")
        if self.mean is not None:
            parts.append(f"rejected mean <= {self.mean:g}%")
        if self.back is not None:
            parts.append(f"back p05 >= {self.back:.0%}")
        return ", ".join(parts) or "-"


_MINUTE = Target(ratio=1.05, rejected=0.1)
_BACK = Target(back=0.95)

TARGETS: dict[str, Target] = {
    "deep": Target(ratio=1.04, rejected=0.3),
    "unknown+deep": Target(ratio=1.07, rejected=0.3),
    "rpm": Target(ratio=1.03, rejected=0.0),
    "tpm": Target(ratio=1.03, rejected=0.3),
    "unknown": Target(ratio=1.10, rejected=1.0),
    "shared-deep": Target(ratio=1.10, mean=1.9),
    "shared": Target(ratio=1.17, mean=5.16),  # no more than the rule before
    "headers-on-429": Target(ratio=1.25, back=0.95),
    "headers-stop": _BACK,
    "wrong-headers": _BACK,
    "wrong-minute": _BACK,
    "limit-falls": _BACK,
    "minute-uniform-admission": _MINUTE,
    "minute-uniform-reply": _MINUTE,
    "minute-lognormal-admission": _MINUTE,
    "minute-lognormal-reply": _MINUTE,
    "30000-rpm": Target(ratio=1.05, rejected=0.5),
}
