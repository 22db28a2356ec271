"""Many items through one LLM: as a stream with bounded memory, as a list, or as a frame."""

from llmflow.mapping.methods import Mappable

__all__ = ["Mappable"]
