"""What a row becomes: an answer, or a failure with its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llmflow.errors import redact

_ANSWER = frozenset({"index", "response"})
_FAILED = frozenset({"index", "error"})


def answer_row(row: Mapping[str, Any], response_text: str, index: int) -> dict[str, Any]:
    """Return the output row of an answered input row.

    The input's fields stay. Where one has a name of ours it is kept as
    ``input_<name>``, so that nothing of the input is lost.

    >>> answer_row({"text": "Hello", "index": "A7"}, "Hi", 0)
    {'index': 0, 'text': 'Hello', 'input_index': 'A7', 'response': 'Hi'}

    Args:
        row: the input row.
        response_text: the model's answer.
        index: the row's position in the input, counted from 0.

    """
    if _ANSWER.isdisjoint(row):
        return {"index": index, **row, "response": response_text}
    return {"index": index, **_renamed(row, _ANSWER), "response": response_text}


def failed_row(row: Mapping[str, Any], error: BaseException, index: int) -> dict[str, Any]:
    """Return the row for the file of failures: the input with the reason beside it.

    ``error`` holds ``type``, ``message``, ``status``, ``attempts`` and
    ``request_id``; what is not known is null. Of an answer that was stopped because of its
    content it holds what was written, as ``partial_text``.

    Args:
        row: the input row.
        error: why there is no answer.
        index: the row's position in the input, counted from 0.

    """
    reason = {
        "type": type(error).__name__,
        "message": redact(str(error)),
        "status": getattr(error, "status", None),
        "attempts": getattr(error, "attempts", None),
        "request_id": getattr(error, "request_id", None),
    }
    if partial_text := getattr(error, "partial_text", ""):
        reason["partial_text"] = partial_text
    return {"index": index, **_renamed(row, _FAILED), "error": reason}


def failed_path(output: Path) -> Path:
    """Return where the failures of an output file go: always JSON lines, beside it.

    >>> failed_path(Path("out/summaries.csv")).as_posix()
    'out/summaries.failed.jsonl'
    """
    return output.with_name(f"{output.stem}.failed.jsonl")


def free_names(names: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """Return new names for those that are taken by names of ours.

    >>> free_names(["text", "error", "input_error"], {"response", "error"})
    {'error': 'input_input_error'}
    """
    renamed = {}
    for name in names:
        if name in taken:
            free = f"input_{name}"
            while free in names:
                free = f"input_{free}"
            renamed[name] = free
    return renamed


def _renamed(row: Mapping[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """Return the row with the names in `taken` replaced by free ones."""
    renamed = free_names(row, taken)
    return {renamed.get(name, name): value for name, value in row.items()}
