"""Tells an unreachable provider from connections that break at times.

One connection in a thousand breaks and is worth six attempts. If there never was one, because of a
wrong port, a proxy or no network, six attempts for each of a million rows are an hour of nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from llmflow.errors import ConnectionFailedError, ProviderError, RateLimitError
from llmflow.retry import Retry

PATIENCE_SECONDS = 5.0

# What aiohttp and httpx raise where no connection came about. By name, for neither
# of them need be there.
_NO_CONNECTION = frozenset(
    {
        "ClientConnectorError",
        "ConnectionTimeoutError",
        "ConnectError",
        "ConnectTimeout",
        "ConnectionRefusedError",
        "gaierror",
    }
)


class Reachability:
    """Notes whether a provider was ever reached.

    >>> contact = Reachability()
    >>> llm = LLM("openai/gpt-6-luna", retry=contact.policy())  # doctest: +SKIP

    `patience` are the seconds that the first connection may take, retries included.
    """

    def __init__(
        self, *, patience: float = PATIENCE_SECONDS, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.made = False  # whether anything ever came back
        self.lost = False  # whether the patience is at its end, and nothing ever came back
        self.trouble: ProviderError | None = None
        """The last failure to connect, as long as nothing ever came back."""
        self.on_lost: Callable[[ProviderError], None] = lambda _error: None
        """Called once, when the patience is at its end."""
        self._patience = patience
        self._now = now
        self._since: float | None = None

    def policy(self, base: Retry | None = None) -> Retry:
        """Return a retry policy that gives up where nobody was ever reached."""
        from tenacity import retry_if_exception

        return replace(base or Retry(), retry=retry_if_exception(self._is_worth_an_attempt))

    def confirm(self) -> None:
        """Note that something came back."""
        self.made = True
        self.trouble = None

    def _is_worth_an_attempt(self, error: BaseException) -> bool:
        if isinstance(error, RateLimitError) or not isinstance(error, ProviderError):
            return False
        if not error.transient:
            return False
        if not self.made:
            self._note(error)
        return not self.lost

    def _note(self, error: ProviderError) -> None:
        if not _never_connected(error):
            self.confirm()  # an error of a server is a sign of life, too
            return
        self.trouble = error
        now = self._now()
        if self._since is None:
            self._since = now
        if now - self._since >= self._patience and not self.lost:
            self.lost = True
            self.on_lost(error)


def _never_connected(error: ProviderError) -> bool:
    """Return whether not even a connection came about, as far as the causes tell."""
    if not isinstance(error, ConnectionFailedError):
        return False
    if error.message.startswith("cannot connect"):
        return True  # a provider with a client of its own may keep the causes to itself
    cause: BaseException | None = error
    while cause is not None:
        if any(kind.__name__ in _NO_CONNECTION for kind in type(cause).__mro__):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
