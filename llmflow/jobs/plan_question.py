"""One item's prompt, and the text in it whose tokens are counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmflow.call_options import as_messages

# What a chat takes beside its texts: each message 3 and its role 1, and 3 for the answer to
# begin (OpenAI's cookbook, "How to count tokens with tiktoken").
PER_MESSAGE = 4
PER_CHAT = 3


class Question(NamedTuple):
    """What one item asks.

    Args:
        messages: what would be sent.
        text: all that is text in it.
        beside: tokens of the messages beside the first one, without their texts.
    """

    messages: tuple[Mapping[str, Any], ...]
    text: str
    beside: int = 0

    @classmethod
    def of(cls, prompt: Any) -> Question:
        """Return the question that a text or a list of chat messages is.

        >>> Question.of("How high is the tide?").text
        'How high is the tide?'

        Raises:
            InputError: it is neither.
        """
        messages = as_messages(prompt)
        if isinstance(prompt, str):
            return cls(messages, prompt)
        text = "\n".join(part for each in messages for part in _texts(each.get("content")))
        return cls(messages, text, PER_MESSAGE * (len(messages) - 1))


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str):
                yield text
