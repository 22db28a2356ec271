"""The error for an answer that does not fit its output type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

RESPONSE: Final = "response"
"""The property that holds the value of a type that is no object."""

MOST_PROBLEMS: Final = 10
MOST_LENGTH: Final = 1000
_MOST_VALUE: Final = 60
_MOST_MESSAGE: Final = 200


class AnswerMismatch(ValueError):  # noqa: N818 - said of answers, not of programs
    """An answer does not fit its output type.

    The text says where and why. It is meant for the model that is asked again, and for the
    user: at most ten problems in at most 1,000 characters.
    """


def mismatch(problems: Iterable[str]) -> AnswerMismatch:
    """Return the error for problems, of which the first ones are named.

    >>> str(mismatch(["score: Input should be less than 6 (got 9)"]))
    'score: Input should be less than 6 (got 9)'
    """
    found = list(islice(dict.fromkeys(problems), MOST_PROBLEMS + 1))
    lines = [_shortened(line, MOST_LENGTH) for line in found[:MOST_PROBLEMS]]
    if len(found) > MOST_PROBLEMS:
        lines.append("and more")
    return AnswerMismatch(_shortened("; ".join(lines) or "not valid", MOST_LENGTH))


def problem(path: str, message: str, value: Any = ...) -> str:
    """Return one problem in a line, with the found value shortened.

    >>> problem("tags[0]", "Input should be a valid string", 5)
    'tags[0]: Input should be a valid string (got 5)'
    """
    line = _shortened(" ".join(message.split()), _MOST_MESSAGE)
    if path:
        line = f"{_shortened(path, _MOST_MESSAGE)}: {line}"
    return line if value is ... else f"{line} (got {_shown(value)})"


def path_text(path: Sequence[str | int]) -> str:
    """Return a place in JSON data as a text.

    >>> path_text(["reviews", 0, "score"])
    'reviews[0].score'
    """
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _shown(value: Any) -> str:
    """Return the start of a value as the model wrote it."""
    import json

    if isinstance(value, (dict, list)) and len(value) > _MOST_VALUE:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # such as an integer of 5,000 digits
        return f"a value of type {type(value).__name__}"
    return _shortened(text, _MOST_VALUE)


def _shortened(text: str, most: int) -> str:
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be sent
    return text if len(text) <= most else text[: most - 3] + "..."
