"""The answer cache of this machine: one SQLite file for all processes.

A cache only ever saves something: whatever is wrong with it, calls go on without.
"""

from llmflow.cache.cache import Cache, cache_at

__all__ = ["Cache", "cache_at"]
