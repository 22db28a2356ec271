"""Answers of all runs on this machine, in one SQLite file that many processes share.

A cache only ever saves something: whatever is wrong with it, calls go on without.
"""

from llmflow.cache.cache import Cache, cache_at

__all__ = ["Cache", "cache_at"]
