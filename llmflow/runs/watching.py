"""Which ways the calls of a run take: what its progress and its report look at."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from llmflow.limits import Limiter, LimiterStatistics
from llmflow.runs.recorder import Recorder
from llmflow.runs.route import Route
from llmflow.types import Request, Response

if TYPE_CHECKING:
    from llmflow.budget import Ledger
    from llmflow.journal import Journal


class WatchedRecorder(Recorder):
    """A recorder that knows the routes of its calls. Arguments as of `Recorder`."""

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        retry_failed: bool = False,
        run_id: str | None = None,
    ) -> None:
        super().__init__(journal=journal, ledger=ledger, retry_failed=retry_failed, run_id=run_id)
        self._routes: dict[Route, LimiterStatistics] = {}

    def answer(self, request: Request, route: Route) -> Coroutine[Any, Any, Response]:
        """Answer one request; see `Recorder.answer`."""
        if route not in self._routes:
            self._routes[route] = route.limiter.statistics()
        return super().answer(request, route)

    def limiters(self) -> dict[Limiter, LimiterStatistics]:
        """Return the limiters of its calls, each with its statistics before the first of them."""
        found: dict[Limiter, LimiterStatistics] = {}
        for route, before in dict(self._routes).items():  # other threads may add to it
            found.setdefault(route.limiter, before)
        return found

    def prices_as_of(self) -> str | None:
        """Return the day of the public prices that a route's answers cost; else None."""
        if not any(_is_public(route) for route in dict(self._routes)):
            return None
        from llmflow.pricing import PRICES_AS_OF

        return PRICES_AS_OF


def _is_public(route: Route) -> bool:
    price = route.price()
    if price is None or price.is_free:
        return False
    from llmflow.pricing import price_of

    provider = route.provider
    return price == price_of(f"{provider.name}/{provider.model}", base_url=route.endpoint or None)
