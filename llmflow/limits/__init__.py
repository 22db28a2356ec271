"""Admission: decides when a request may be sent."""

from llmflow.limits.limiter import Limiter
from llmflow.limits.permit import Permit
from llmflow.limits.statistics import LimiterStatistics

__all__ = ["Limiter", "LimiterStatistics", "Permit"]
