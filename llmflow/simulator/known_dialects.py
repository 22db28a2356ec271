"""The dialects that the simulator speaks."""

from __future__ import annotations

from llmflow.simulator.anthropic.messages import AnthropicDialect
from llmflow.simulator.dialect import Dialect
from llmflow.simulator.openai.chat import OpenAIDialect
from llmflow.simulator.settings import SimulatorSettings

DIALECTS: tuple[type[Dialect], ...] = (AnthropicDialect, OpenAIDialect)
"""All of them; the last one claims what no other does."""


def dialects(settings: SimulatorSettings, *, wall: float = 0.0) -> tuple[Dialect, ...]:
    """Return one of each."""
    return tuple(dialect(settings, wall=wall) for dialect in DIALECTS)
