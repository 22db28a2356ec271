"""An answer that was cut off says ``length``, whatever the provider's word for it is."""

from __future__ import annotations

import orjson
import pytest

from llmflow.provider_registry import provider_for
from llmflow.types import Response, WireReply


def decode(model: str, reason: str) -> Response:
    if model.startswith("anthropic"):
        body = {"content": [{"type": "text", "text": "Half"}], "stop_reason": reason}
    else:
        choice = {"message": {"content": "Half"}, "finish_reason": reason}
        body = {"choices": [choice]}  # type: ignore[dict-item]
    provider = provider_for(model, base_url="http://sim.test/v1", api_key="sk-simulated")
    return provider.decode(WireReply(200, {}, orjson.dumps(body), 0.0))  # type: ignore[union-attr]


@pytest.mark.parametrize("model", ["openai/m", "anthropic/m"])
@pytest.mark.parametrize(
    "reason",
    ["length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"],
)
def test_a_word_for_a_cut_is_length(model: str, reason: str) -> None:
    response = decode(model, reason)
    assert response.finish_reason == "length"
    assert response.is_cut


@pytest.mark.parametrize("model", ["openai/m", "anthropic/m"])
@pytest.mark.parametrize("reason", ["stop", "tool_calls", "eos"])
def test_other_words_stay(model: str, reason: str) -> None:
    assert decode(model, reason).finish_reason == reason
