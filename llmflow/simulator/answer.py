"""Answers without a model: the sentences with a text's most frequent words.

After Luhn (1958). Deterministic and quick; good enough that a summary of
a summary, or a person looking at the output, has something to work with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import orjson

from llmflow.simulator.conversation import Conversation
from llmflow.simulator.exchange import Answer, Call, Tool
from llmflow.simulator.fitting import fits
from llmflow.simulator.schema_value import Filler, fill_schema
from llmflow.simulator.varied_value import VariedFiller
from llmflow.simulator.written_schema import Written, written_schema
from llmflow.simulator.wrong_answer import Mistakes, wrong_answer

# Longer texts are judged by their beginning, so that an answer stays cheap.
_READ_CHARS = 8_000
_SENTENCES = 2
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。\uff01\uff1f\uff1b])\s*|\n+")
_WORD = re.compile(r"[^\W\d_\u4e00-\u9fff]{4,}|[\u4e00-\u9fff]")
# A colon of a time, a URL or a path ends no instruction.
_INSTRUCTION = re.compile(r"[^:\uff1a\n]{1,160}?(?:[:\uff1a](?![/\d])|\n)\s*")
_OPTIONS = re.compile(r"((?:[\w-]+,\s+)*[\w-]+),?\s+or\s+([\w-]+)", re.IGNORECASE)
_CHOOSING = re.compile(r"classif|sentiment|label|categor|\bis (?:this|it)\b", re.IGNORECASE)
_NO_GAP_AFTER = "。\uff01\uff1f\uff1b"
_COMMON_WORDS = (
    "about after also another because been before being between could does done each even "
    "from give have here into just like made make many more most much only other over same "
    "should some such than that their them then there these they this those through under "
    "very want well were what when where which while will with would your"
)
_COMMON = frozenset(_COMMON_WORDS.split())


def count_tokens(text: str) -> int:
    """Return the simulator's own count: one token per four UTF-8 bytes.

    >>> count_tokens("twelve bytes"), count_tokens("四个汉字")
    (3, 3)
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return (size + 3) // 4


def cut_to_tokens(text: str, tokens: int) -> str:
    """Cut a text to at most so many tokens."""
    if count_tokens(text) <= tokens:
        return text
    return text.encode("utf-8", "replace")[: tokens * 4].decode("utf-8", "ignore").rstrip()


def split_instruction(prompt: str) -> tuple[str, str]:
    """Split a prompt into its leading instruction and its text.

    >>> split_instruction("Summarize: The sea is wide.")
    ('Summarize:', 'The sea is wide.')
    >>> split_instruction("How wide is the sea?")
    ('', 'How wide is the sea?')
    """
    prompt = prompt.strip()
    found = _INSTRUCTION.match(prompt)
    if found is None or found.end() >= len(prompt):
        return "", prompt
    return found.group().strip(), prompt[found.end() :]


def split_sentences(text: str) -> list[str]:
    """Split a text at the ends of its sentences, Chinese ones too.

    >>> split_sentences("One. Two! 第三句。第四句。")
    ['One.', 'Two!', '第三句。', '第四句。']
    """
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def summarize(text: str, *, max_tokens: int | None = None) -> str:
    """Return the one or two sentences with the most frequent words.

    Where not even one fits, the best one is returned whole, for the caller to cut.
    """
    sentences = split_sentences(text[:_READ_CHARS])
    if len(sentences) <= 1:
        return sentences[0] if sentences else ""
    words = [[w for w in _WORD.findall(s.lower()) if w not in _COMMON] for s in sentences]
    frequency = Counter(word for sentence in words for word in sentence)
    scores = [
        sum(frequency[word] for word in set(sentence)) / (len(sentence) + 3) ** 0.5
        for sentence in words
    ]
    ranked = sorted(range(len(sentences)), key=lambda index: (-scores[index], index))
    best = sorted(ranked[:_SENTENCES])
    summary = ""
    for index in best:
        gap = " " if summary and summary[-1] not in _NO_GAP_AFTER else ""
        summary += gap + sentences[index]
    if max_tokens is not None and count_tokens(summary) > max_tokens:
        return sentences[ranked[0]]
    return summary


def choose(instruction: str, text: str) -> str | None:
    """Return one of the labels that an instruction offers, or None.

    >>> choose("Classify as positive, negative or neutral:", "A negative review.")
    'negative'
    """
    if not _CHOOSING.search(instruction):
        return None
    found = _OPTIONS.search(instruction)
    if found is None:
        return None
    labels: list[str] = [label.strip() for label in (*found.group(1).split(","), found.group(2))]
    lower = text.lower()
    counts = [lower.count(label.lower()) for label in labels]
    # No label is named: the text's length decides, so that all labels occur.
    index = counts.index(max(counts)) if any(counts) else len(text) % len(labels)
    return labels[index]


def answer_text(prompt: str, *, style: str, max_tokens: int | None) -> str:
    """Return an answer to a prompt, possibly longer than `max_tokens`."""
    if style == "echo":
        return prompt[:200].strip() or "(empty)"
    instruction, text = split_instruction(prompt)
    return choose(instruction, text) or summarize(text, max_tokens=max_tokens) or "(empty)"


def answer(
    call: Call, *, style: str, mistakes: Mistakes | None = None, varied: bool = False
) -> Answer:
    """Let the simulated model answer.

    Args:
        call: what is asked.
        style: see `SimulatorSettings.answer`.
        mistakes: which first answers do not fit the schema that is wanted.
        varied: see `SimulatorSettings.varied_values`.
    """
    if call.tool is None and call.offered:
        call.tool = _asked_tool(call)
    tool = call.tool
    schema = _wanted(call) if tool is None else tool.schema
    if schema is not None:
        filler = VariedFiller if varied else Filler
        said = _fitting(call, schema, filler, style=style, mistakes=mistakes)
    else:
        text = answer_text(call.prompt, style=style, max_tokens=call.max_tokens)
        said = Answer(text=text, tokens=count_tokens(text))
    said.tool = tool
    if call.max_tokens is None or said.tokens <= call.max_tokens:
        return said
    said.text = cut_to_tokens(said.text, call.max_tokens)
    said.tokens, said.cut, said.wrong = count_tokens(said.text), True, None
    return said


_CALLING: Final = re.compile(r"\b(?:call|calling|use|using)\b", re.IGNORECASE)
_ANY_ANSWER: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}


def _wanted(call: Call) -> Mapping[str, Any] | None:
    """Return the schema that an answer must fit, None for an answer in words."""
    if call.form is not None and call.form != "object":
        return call.form
    found = _written(call)
    if found is not None:
        return found.schema
    return _ANY_ANSWER if call.form == "object" else None


def _written(call: Call) -> Written | None:
    """Return the schema that the words of a request ask for."""
    if "{" not in call.prompt and len(call.messages) < 2 and not call.system:
        return None  # as most requests
    said = Conversation(call.messages, call.system)
    asked = "\n".join(turn.text for turn in said.turns if not turn.by_model)
    return written_schema(said.instructions) or written_schema(asked)


def _asked_tool(call: Call) -> Tool | None:
    """Return the tool that the instructions ask to be called, None if they do not."""
    said = Conversation(call.messages, call.system).instructions
    if not _CALLING.search(said):
        return None
    named = (tool for tool in call.offered if re.search(rf"\b{re.escape(tool.name)}\b", said))
    return next(named, None)


def _fitting(
    call: Call,
    schema: Mapping[str, Any],
    filler: type[Filler],
    *,
    style: str,
    mistakes: Mistakes | None,
) -> Answer:
    """Return the JSON that a schema wants, or once something else."""
    said = Conversation(call.messages, call.system)
    prompt = said.question(partial(fits, schema)) if said.goes_on else call.prompt
    found = written_schema(prompt)
    text = answer_text(
        prompt if found is None else found.rest, style=style, max_tokens=call.max_tokens
    )
    value = fill_schema(schema, text, filler)
    if call.tool is not None and not isinstance(value, dict):
        value = {}
    wrong = None
    if mistakes is not None and not said.goes_on:
        kind = mistakes.kind(said.first, max_tokens=call.max_tokens)
        as_object = call.tool is not None and call.tool.read
        wrong = kind and wrong_answer(
            kind, value, schema, as_object=as_object, has_room=partial(_has_room, call)
        )
    if not wrong:
        whole = orjson.dumps(value).decode()
        return Answer(text=whole, tokens=count_tokens(whole))
    if wrong.kind != "cut_off" or call.max_tokens is None:
        return Answer(text=wrong.text, tokens=count_tokens(wrong.text), wrong=wrong.kind)
    # It has used all of its tokens: the rest went into what is not seen.
    text, tokens = cut_to_tokens(wrong.text, call.max_tokens), call.max_tokens
    return Answer(text=text, tokens=tokens, cut=True, wrong=wrong.kind)


def _has_room(call: Call, text: str) -> bool:
    return call.max_tokens is None or count_tokens(text) <= call.max_tokens
