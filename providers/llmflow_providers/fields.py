"""The fields that bodies may have, by dialect: what a call may give as a keyword.

What is here is sent as it is; what is not goes into ``options={...}``. From the official SDKs
(openai 3.57, anthropic 2.14) and the servers' own documents. Left out is what llmflow sends
itself: the model, the messages, the system text, the bound of the answer, the temperature.
"""

from __future__ import annotations

from typing import Final

OPENAI: Final = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "metadata",
        "modalities",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
"""OpenAI's chat completions."""

COMPATIBLE: Final = OPENAI | {
    # OpenRouter
    "models",
    "plugins",
    "provider",
    "reasoning",
    "session_id",
    "transforms",
    "usage",
    # Mistral
    "guardrails",
    "prompt_mode",
    "random_seed",
    "safe_prompt",
    # Together and Fireworks
    "compliance",
    "context_length_exceeded_behavior",
    "perf_metrics_in_response",
    "prompt_cache_isolation_key",
    "prompt_truncate_len",
    "safety_model",
    # Groq, xAI, DeepSeek, Gemini
    "include_reasoning",
    "reasoning_format",
    "search_parameters",
    "thinking",
    # vLLM, SGLang, llama.cpp and other servers of open models
    "add_generation_prompt",
    "bad_words",
    "best_of",
    "cache_prompt",
    "chat_template",
    "chat_template_kwargs",
    "echo",
    "ebnf",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "include_stop_str_in_output",
    "json_schema",
    "keep_alive",
    "length_penalty",
    "min_p",
    "min_tokens",
    "priority",
    "prompt_logprobs",
    "regex",
    "repeat_penalty",
    "repetition_penalty",
    "skip_special_tokens",
    "stop_token_ids",
    "structured_outputs",
    "top_k",
    "typical_p",
    "use_beam_search",
}
"""Servers that speak OpenAI's dialect with fields of their own, all of them together."""

ANTHROPIC: Final = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "metadata",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
        "user_profile_id",
        "workspace_id",
    }
)
"""Anthropic's messages."""
