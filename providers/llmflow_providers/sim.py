"""``sim/NAME``: the built-in simulator as a provider.

A real HTTP server on loopback with a real quota, in a thread of this process,
started at the first use and shared by all that name it. What answers are
extracts of the prompt, not a language model's work.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from llmflow.provider import BatchLimits
from llmflow.types import Quota
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.openai.dialects import OPENAI, OPENAI_FIELDS

if TYPE_CHECKING:
    from llmflow.simulator import SimulatorThread
    from llmflow_providers.openai.chat_output import ChatOutput
    from llmflow_providers.openai.openai_batch import OpenAIBatch

QUOTA: Final = Quota(rpm=600, tpm=100_000, burst_seconds=1)

_server: SimulatorThread | None = None
_lock = threading.Lock()


class SimProvider(OpenAIProvider):
    """The built-in simulator, or with `base_url` one that runs elsewhere.

    Args:
        model: any name.
        base_url: where another simulator runs; its quota is then unknown.
        api_key: the key, where the other simulator wants one.
    """

    name = "sim"

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        # Until `prepare` has started the server there is no port to name.
        super().__init__(model, base_url=base_url or "http://127.0.0.1/v1", api_key=api_key or "-")
        self._embedded = base_url is None
        self.default_quota = QUOTA if self._embedded else None
        self.known_options = OPENAI_FIELDS  # the simulator refuses all others

    @property
    def domain(self) -> Hashable:
        """One quota per model of the built-in server."""
        return (self.name, self.model) if self._embedded else super().domain

    @property
    def endpoint(self) -> str:
        """The built-in server is the same one at whatever port."""
        return "" if self._embedded else self.base_url

    @property
    def batch(self) -> OpenAIBatch:
        """Its batch API, whose jobs take seconds."""
        from llmflow_providers.openai.openai_batch import OpenAIBatch

        return OpenAIBatch(self, BatchLimits(poll=0.5, calls_per_minute=6000))

    def _typed_output(self) -> ChatOutput:
        from llmflow_providers.openai.chat_output import ChatOutput

        # It checks requests as OpenAI's own server does, wherever it runs.
        return ChatOutput(OPENAI, self.model, self.base_url, who=f"{self.name}/{self.model}")

    def prepare(self) -> None:
        """Start the built-in server, once per process."""
        if self._embedded:
            self.base_url = _embedded_url()
            self._url = f"{self.base_url}{self.path}"


def _embedded_url() -> str:
    global _server  # noqa: PLW0603 - one server per process is what this is about
    with _lock:
        if _server is None:
            from llmflow.simulator import BatchSettings, Latency, SimulatorSettings, serve_in_thread

            settings = SimulatorSettings(
                rpm=QUOTA.rpm,
                tpm=QUOTA.tpm,
                burst_seconds=float(QUOTA.burst_seconds or 1.0),
                latency=Latency(seconds=0.4, sigma=0.3),
                varied_values=True,
                batch=BatchSettings(seconds=1.0, validation_seconds=0.1, finalizing_seconds=0.1),
            )
            _server = serve_in_thread(settings)
            atexit.register(_server.close)
        return _server.url
