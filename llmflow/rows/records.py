"""Output records of a row: an answer, or a failure's reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmflow.errors import ContentFilterError, redact
from llmflow.types import Response

DETAILS: Final = (
    "finish_reason",
    "model",
    "input_tokens",
    "output_tokens",
    "cost",
    "attempts",
    "error",
)
"""The columns that details add to a row; what is not known is null."""
_ANSWER = frozenset({"index", "response"})
_FAILED = frozenset({"index", "error"})
_ANSWER_AND_DETAILS = _ANSWER | frozenset(DETAILS)
_FAILED_AND_DETAILS = _FAILED | frozenset(DETAILS)


def answer_details(response: Response) -> dict[str, Any]:
    """Return an answer's values for `DETAILS`; its ``error`` is null."""
    usage = response.usage
    return {
        "finish_reason": response.finish_reason,
        "model": response.model,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": response.cost,
        "attempts": response.attempts,
        "error": None,
    }


def failure_details(error: BaseException) -> dict[str, Any]:
    """Return a failure's values for `DETAILS`, without its ``error``."""
    usage = getattr(error, "usage", None)  # of an answer that was stopped on its way
    return {
        "finish_reason": "content_filter" if isinstance(error, ContentFilterError) else None,
        "model": getattr(error, "model", None),
        "input_tokens": getattr(usage, "input_tokens", None),
        "output_tokens": getattr(usage, "output_tokens", None),
        "cost": getattr(error, "cost", None),
        "attempts": getattr(error, "attempts", None),
    }


def output_fields(fields: Sequence[str], *, details: bool = False) -> list[str]:
    """Return the fields of output rows, in order, for input fields.

    >>> output_fields(["id", "index"])
    ['index', 'id', 'input_index', 'response']
    """
    renamed = free_names(fields, _ANSWER_AND_DETAILS if details else _ANSWER)
    own = [renamed.get(name, name) for name in fields]
    return ["index", *own, "response", *(DETAILS if details else ())]


def output_types(types: Mapping[str, Any], *, details: bool = False) -> dict[str, Any]:
    """Return the types of output columns for input columns with these types.

    >>> output_types({"id": "int8", "index": "int16"})
    {'id': 'int8', 'input_index': 'int16'}
    """
    renamed = free_names(list(types), _ANSWER_AND_DETAILS if details else _ANSWER)
    return {renamed.get(name, name): kind for name, kind in types.items()}


def answer_row(
    row: Mapping[str, Any],
    response_text: str,
    index: int,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the output row of an answered input row.

    The input's fields stay. Where one has a name of ours it is kept as
    ``input_<name>``, so that nothing of the input is lost.

    >>> answer_row({"text": "Hello", "index": "A7"}, "Hi", 0)
    {'index': 0, 'text': 'Hello', 'input_index': 'A7', 'response': 'Hi'}
    """
    if details is not None:
        own = _renamed(row, _ANSWER_AND_DETAILS)
        return {"index": index, **own, "response": response_text, **details}
    if _ANSWER.isdisjoint(row):
        return {"index": index, **row, "response": response_text}
    return {"index": index, **_renamed(row, _ANSWER), "response": response_text}


def failed_row(
    row: Mapping[str, Any], error: BaseException, index: int, *, details: bool = False
) -> dict[str, Any]:
    """Return the failure file's row: the input and the reason.

    ``error`` holds ``type``, ``message``, ``status``, ``attempts`` and
    ``request_id``; what is not known is null. Of an answer that was stopped because of its
    content it holds what was written, as ``partial_text``.
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
    if details:
        more = failure_details(error)
        return {"index": index, **_renamed(row, _FAILED_AND_DETAILS), **more, "error": reason}
    return {"index": index, **_renamed(row, _FAILED), "error": reason}


def failed_path(output: Path) -> Path:
    """Return the path of an output's failure file, as JSON lines.

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
