"""Admission: decides when a request may be sent."""

from llmflow.limits.limiter import Limiter, Permit
from llmflow.limits.limiter_statistics import LimiterStatistics

__all__ = ["Limiter", "LimiterStatistics", "Permit"]
