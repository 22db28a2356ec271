"""Maps of many items through one LLM, as stream, list or frame."""

from llmflow.mapping.methods import Mappable

__all__ = ["Mappable"]
