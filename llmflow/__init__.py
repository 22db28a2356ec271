"""Run many texts through hosted LLMs at the provider's own speed.

>>> from llmflow import LLM, AsyncFlow, AsyncParallelBatchNode, Quota
>>> llm = LLM("openai/gpt-4.1-mini", quota=Quota(rpm=500, tpm="200k"))

Public are this package, `llmflow.testing`, `llmflow.simulator` and, for those who
write a provider, `llmflow.provider`, `llmflow.types` and `llmflow.errors`.
"""

from llmflow import errors
from llmflow.engine.graph import BaseNode
from llmflow.engine.results import Failure, NotRun, partial_results
from llmflow.errors import LLMFlowError, ProviderError, UsageError
from llmflow.flows import (
    AsyncBatchFlow,
    AsyncFlow,
    AsyncParallelBatchFlow,
    BatchFlow,
    Flow,
)
from llmflow.limits import Limiter, LimiterStatistics
from llmflow.llm import LLM
from llmflow.modes.hedging import Hedge
from llmflow.nodes import (
    AsyncBatchNode,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchNode,
    Node,
)
from llmflow.retry import Retry
from llmflow.transport import Timeout
from llmflow.types import Quota, Response, Usage

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncBatchFlow",
    "AsyncBatchNode",
    "AsyncFlow",
    "AsyncNode",
    "AsyncParallelBatchFlow",
    "AsyncParallelBatchNode",
    "BaseNode",
    "BatchFlow",
    "BatchNode",
    "Failure",
    "Flow",
    "Hedge",
    "LLMFlowError",
    "Limiter",
    "LimiterStatistics",
    "Node",
    "NotRun",
    "ProviderError",
    "Quota",
    "Response",
    "Retry",
    "Timeout",
    "Usage",
    "UsageError",
    "__version__",
    "errors",
    "partial_results",
]


def _adopt() -> None:
    """Let reprs, tracebacks and documentation name the place where users find things."""
    for name in __all__:
        thing = globals()[name]
        if callable(thing):
            thing.__module__ = __name__


_adopt()
