"""The names of OpenTelemetry's semantic conventions for generative AI, and llmflow's own.

They are written down here because the conventions have left the core repository
(https://github.com/open-telemetry/semantic-conventions-genai, status: development), and the
constants of ``opentelemetry-semantic-conventions`` are deprecated.
"""

from __future__ import annotations

from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
ERROR_TYPE: Final = "error.type"
STATUS_CODE: Final = "http.response.status_code"

SOURCE: Final = "llmflow.source"
RUN_ID: Final = "llmflow.run_id"
ATTEMPTS: Final = "llmflow.attempts"
WAITED: Final = "llmflow.waited"
COST: Final = "llmflow.cost"
REQUEST_ID: Final = "llmflow.request_id"
CANCELLED: Final = "llmflow.cancelled"

TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105
TOKEN_USAGE_BOUNDARIES: Final = tuple(4**power for power in range(14))
DURATION: Final = "gen_ai.client.operation.duration"
DURATION_BOUNDARIES: Final = tuple(0.01 * 2**power for power in range(14))
WAIT: Final = "llmflow.client.wait.duration"
WAIT_BOUNDARIES: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0)
REJECTIONS: Final = "llmflow.client.rejections"
RETRIES: Final = "llmflow.client.retries"
SPENT: Final = "llmflow.client.cost"

OPTIONS: Final = {
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
"""The options of a call that the conventions have a name for; all are numbers."""

WELL_KNOWN: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""Providers that the conventions call by another name than llmflow does."""
