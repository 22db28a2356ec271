"""Step 6: take the answer of an earlier run on this machine."""

from __future__ import annotations

from dataclasses import replace

from llmflow.calls.call import Call, Step
from llmflow.types import Response


def cached(ask: Step) -> Step:
    """Return the step that looks a call up in the cache."""

    async def step(call: Call) -> Response:
        cache = call.route.cache
        found = None if cache is None else await cache.find(call.key)
        if found is None:
            return await ask(call)
        call.source = "cache"
        return replace(found, source="cache")

    return step
