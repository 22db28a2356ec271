"""Run many texts through hosted LLMs at the provider's own speed."""

from llmflow.errors import LLMFlowError, ProviderError, UsageError
from llmflow.limits import Limiter, LimiterStatistics
from llmflow.llm import LLM
from llmflow.retry import Retry
from llmflow.transport import Timeout
from llmflow.types import Quota, Response, Usage

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "LLMFlowError",
    "Limiter",
    "LimiterStatistics",
    "ProviderError",
    "Quota",
    "Response",
    "Retry",
    "Timeout",
    "Usage",
    "UsageError",
    "__version__",
]
