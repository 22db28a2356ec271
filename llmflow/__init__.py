"""Run many texts through hosted LLMs at the provider's own speed.

>>> from llmflow import LLM, AsyncFlow, AsyncParallelBatchNode, Quota
>>> llm = LLM("openai/gpt-6-luna", quota=Quota(rpm=500, tpm="200k"))

Public are this package, `llmflow.errors`, `llmflow.events`, `llmflow.telemetry`,
`llmflow.testing`, `llmflow.simulator` and, for those who write a provider,
`llmflow.provider` and `llmflow.types`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from llmflow import errors, events, telemetry
from llmflow._version import __version__
from llmflow.batch import Batch
from llmflow.calls.hedge import Hedge
from llmflow.calls.observe import RunStatistics
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
from llmflow.inference import BatchInferenceNode
from llmflow.limits import Limiter, LimiterStatistics
from llmflow.llm import LLM
from llmflow.nodes import (
    AsyncBatchNode,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchNode,
    Node,
)
from llmflow.pricing import Price
from llmflow.retry import Retry
from llmflow.runs.run import Run, current_run
from llmflow.transport import Timeout, raise_connection_limit
from llmflow.types import Quota, Response, Usage

if TYPE_CHECKING:
    from llmflow.budget import Budget
    from llmflow.jobs.planning import Plan, make_plan
    from llmflow.mapping.result import Result, ResultList

__all__ = [
    "LLM",
    "AsyncBatchFlow",
    "AsyncBatchNode",
    "AsyncFlow",
    "AsyncNode",
    "AsyncParallelBatchFlow",
    "AsyncParallelBatchNode",
    "BaseNode",
    "Batch",
    "BatchFlow",
    "BatchInferenceNode",
    "BatchNode",
    "Budget",
    "Failure",
    "Flow",
    "Hedge",
    "LLMFlowError",
    "Limiter",
    "LimiterStatistics",
    "Node",
    "NotRun",
    "Plan",
    "Price",
    "ProviderError",
    "Quota",
    "Response",
    "Result",
    "ResultList",
    "Retry",
    "Run",
    "RunStatistics",
    "Timeout",
    "Usage",
    "UsageError",
    "__version__",
    "current_run",
    "errors",
    "events",
    "make_plan",
    "partial_results",
    "raise_connection_limit",
    "telemetry",
]

# Imported when they are first asked for: most programs do without.
_LATER: Final = {
    "Budget": "llmflow.budget",
    "Result": "llmflow.mapping.result",
    "ResultList": "llmflow.mapping.result",
    "Plan": "llmflow.jobs.planning",
    "make_plan": "llmflow.jobs.planning",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _adopt(name, getattr(import_module(_LATER[name]), name))
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _adopt(name: str, thing: Any) -> None:
    """Let reprs, tracebacks and documentation name the place where users find a thing."""
    globals()[name] = thing
    if callable(thing):
        thing.__module__ = __name__


for _name in __all__:
    if _name not in _LATER:
        _adopt(_name, globals()[_name])
