"""The dialects that the simulator speaks."""

from __future__ import annotations

from llmflow.simulator.anthropic.messages import AnthropicDialect
from llmflow.simulator.dialect import Dialect
from llmflow.simulator.openai.chat import OpenAIDialect
from llmflow.simulator.settings import SimulatorSettings


def dialects(settings: SimulatorSettings, *, wall: float = 0.0) -> tuple[Dialect, ...]:
    """Return one of each; the last one claims what no other does."""
    return AnthropicDialect(settings, wall=wall), OpenAIDialect(settings, wall=wall)
