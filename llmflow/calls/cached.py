"""Step 6: take the answer of an earlier run on this machine."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from llmflow.calls.call import Call, Step
from llmflow.types import Response


def cached(ask: Step) -> Step:
    """Return the step that looks a call up in the cache."""

    async def looked_up(call: Call) -> Response:
        cache = call.route.cache
        found = None if cache is None else await cache.find(call.key)
        if found is None:
            return await ask(call)
        call.source = "cache"
        return replace(found, source="cache")

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        return ask(call) if call.route.cache is None else looked_up(call)

    return step
