"""The conversation before an answer, from the messages of any dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

_INSTRUCTING = ("system", "developer")
_ANSWERING = ("assistant",)


class Turn(NamedTuple):
    """A text of one side, without a break by the other."""

    by_model: bool
    text: str


class Conversation:
    """The turns of a request's messages, and the instructions above them.

    >>> said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{"}]
    >>> Conversation(said).first, Conversation([*said, said[0]]).goes_on
    ('Hi', True)

    Args:
        messages: those of the request; a tool's result is a turn of the user.
        system: instructions that are not among the messages.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], system: object = None) -> None:
        self.turns: list[Turn] = []
        instructions = [text_of({"content": system})] if system else []
        for message in messages:
            text = text_of(message)
            if message["role"] in _INSTRUCTING:
                instructions.append(text)
                continue
            by_model = message["role"] in _ANSWERING
            if self.turns and self.turns[-1].by_model == by_model:
                text = f"{self.turns.pop().text}\n{text}"
            self.turns.append(Turn(by_model, text))
        self.instructions = "\n".join(instructions)

    @property
    def first(self) -> str:
        """The user's text before the model said anything."""
        return self.turns[0].text if self.turns and not self.turns[0].by_model else ""

    @property
    def goes_on(self) -> bool:
        """True if the user has spoken again after an answer."""
        return any(turn.by_model for turn in self.turns[:-1])

    def question(self, is_answer: Callable[[str], bool]) -> str:
        """Return the user's last text that is not about a failed answer.

        Args:
            is_answer: says whether a text of the model is what was asked for. The user who
                speaks after another text wants the answer to the former question.
        """
        turns = list(self.turns)
        while turns and turns[-1].by_model:
            turns.pop()
        while len(turns) > 2 and turns[-2].by_model and not is_answer(turns[-2].text):
            del turns[-2:]
        return turns[-1].text if turns else ""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message; a tool's input is JSON."""
    content = message.get("content")
    calls = message.get("tool_calls") or ()
    arguments = (_arguments(call) for call in calls if isinstance(call, Mapping))
    if isinstance(content, str):
        return "\n".join(part for part in (content, *arguments) if part)
    blocks = content if isinstance(content, list) else ()
    return "\n".join(part for part in (*_block_texts(blocks), *arguments) if part)


def _arguments(call: Mapping[str, Any]) -> str:
    inner = call.get(str(call.get("type")))
    text = inner.get("arguments", inner.get("input")) if isinstance(inner, Mapping) else None
    return text if isinstance(text, str) else ""


def _block_texts(blocks: Sequence[Any]) -> Iterator[str]:
    for block in blocks:
        if not isinstance(block, Mapping):
            continue
        if isinstance(block.get("text"), str):
            yield block["text"]
        elif block.get("type") == "tool_use":
            yield orjson.dumps(block.get("input")).decode()
        elif block.get("type") == "tool_result":
            yield text_of(block)
