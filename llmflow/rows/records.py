"""Output records of a row: an answer, or a failure's reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmflow.errors import ConfigurationError, ContentFilterError, InvalidAnswerError, redact
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.typed.columns import Column
    from llmflow.typed.output_type import OutputType

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
_TEXT: Final = ("response",)
"""The answer's columns without an output type."""


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
    if isinstance(error, InvalidAnswerError) and error.response is not None:
        details = answer_details(error.response)
        del details["error"]
        return details
    usage = getattr(error, "usage", None)  # of an answer that was stopped on its way
    return {
        "finish_reason": "content_filter" if isinstance(error, ContentFilterError) else None,
        "model": getattr(error, "model", None),
        "input_tokens": getattr(usage, "input_tokens", None),
        "output_tokens": getattr(usage, "output_tokens", None),
        "cost": getattr(error, "cost", None),
        "attempts": getattr(error, "attempts", None),
    }


class RowLayout:
    """The columns of output rows: the input's, the answer's, details.

    An input field with the name of another column is kept as ``input_<name>``, so that nothing
    of the input is lost.

    >>> layout = RowLayout()
    >>> layout.fields(["id", "index"])
    ['index', 'id', 'input_index', 'response']
    >>> layout.answer({"text": "Hello", "index": "A7"}, {"response": "Hi"}, 0)
    {'index': 0, 'text': 'Hello', 'input_index': 'A7', 'response': 'Hi'}

    Args:
        output: whose fields are the answer's columns; None: the text alone, as ``response``.
        details: whether `DETAILS` are columns, too.

    Raises:
        ConfigurationError: a field of `output` has the name of a column of ours.
    """

    def __init__(self, output: OutputType | None = None, *, details: bool = False) -> None:
        self.columns: tuple[Column, ...] = () if output is None else output.columns
        """The answer's columns with their kinds; none without an output type."""
        answer = _TEXT if output is None else tuple(each.name for each in output.columns)
        ours = ("index", *DETAILS) if details else ("index",)
        for name in answer:
            if name in ours:
                raise ConfigurationError(_is_reserved(name))
        self.details = details
        self.output, self._answer, self._more = output, answer, ours[1:]
        self._taken = frozenset((*ours, *answer))
        self._failed = frozenset(("index", "error", *self._more))

    def fields(self, fields: Sequence[str]) -> list[str]:
        """Return the fields of output rows, in order, for input fields."""
        renamed = free_names(fields, self._taken)
        own = [renamed.get(name, name) for name in fields]
        return ["index", *own, *self._answer, *self._more]

    def types(self, types: Mapping[str, Any]) -> dict[str, Any]:
        """Return the types of the input's columns by their new names.

        >>> RowLayout().types({"id": "int8", "index": "int16"})
        {'id': 'int8', 'input_index': 'int16'}
        """
        renamed = free_names(list(types), self._taken)
        return {renamed.get(name, name): kind for name, kind in types.items()}

    def columns_of(self, response: Response) -> Mapping[str, Any]:
        """Return the answer's columns of a response that was accepted.

        Raises:
            InvalidAnswerError: its type cannot write the value.
        """
        if self.output is None:
            return {"response": response.text}
        try:
            return self.output.row(response.parsed)
        except ValueError as error:  # an AnswerMismatch, which is imported where it is needed
            raise InvalidAnswerError(str(error), response=response, cause=error) from error

    def columns_of_text(self, text: str) -> Mapping[str, Any] | None:
        """Return the answer's columns of a recorded text.

        None if it is not what is wanted.
        """
        if self.output is None:
            return {"response": text}
        from llmflow.typed.output_type import AnswerMismatch

        try:
            return self.output.row(self.output.parse(text))
        except AnswerMismatch:
            return None

    def answer(
        self,
        row: Mapping[str, Any],
        answer: Mapping[str, Any],
        index: int,
        details: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the output row of an answered input row."""
        own = row if self._taken.isdisjoint(row) else _renamed(row, self._taken)
        if details is None:
            return {"index": index, **own, **answer}
        return {"index": index, **own, **answer, **details}

    def failure(self, row: Mapping[str, Any], error: BaseException, index: int) -> dict[str, Any]:
        """Return the failure file's row: the input and the reason.

        ``error`` holds ``type``, ``message``, ``status``, ``attempts`` and
        ``request_id``; what is not known is null. Of an answer that was stopped because of its
        content it holds what was written, as ``partial_text``; of one that was not accepted
        the whole text, as ``text``.
        """
        more = failure_details(error) if self.details else {}
        reason = failure_reason(error)
        return {"index": index, **_renamed(row, self._failed), **more, "error": reason}


def _is_reserved(name: str) -> str:
    """Say that a field of a schema cannot be a column."""
    what = "the row's position" if name == "index" else "a column of --details"
    remedy = "" if name == "index" else ", or leave out --details"
    return f"schema: the field {name!r} has the name of {what}: call it otherwise{remedy}"


def failure_reason(error: BaseException) -> dict[str, Any]:
    """Return why a row has failed, as the failure file has it."""
    reason = {
        "type": type(error).__name__,
        "message": redact(str(error)),
        "status": getattr(error, "status", None),
        "attempts": getattr(error, "attempts", None),
        "request_id": getattr(error, "request_id", None),
    }
    if partial_text := getattr(error, "partial_text", ""):
        reason["partial_text"] = partial_text
    if isinstance(error, InvalidAnswerError) and error.response is not None:
        reason["text"] = error.response.text
    return reason


def failed_path(output: Path) -> Path:
    """Return the path of an output's failure file, as JSON lines.

    >>> failed_path(Path("out/summaries.csv")).as_posix()
    'out/summaries.failed.jsonl'
    """
    return output.with_name(f"{output.stem}.failed.jsonl")


def free_names(
    names: Collection[str], taken: Collection[str], prefix: str = "input_"
) -> dict[str, str]:
    """Return new names for those that are taken by names of ours.

    No two are alike, and none is one of ours.

    >>> free_names(["text", "error", "input_error"], {"response", "error"})
    {'error': 'input_input_error'}
    """
    renamed: dict[str, str] = {}
    for name in names:
        if name in taken:
            free = f"{prefix}{name}"
            while free in names or free in taken or free in renamed.values():
                free = f"{prefix}{free}"
            renamed[name] = free
    return renamed


def _renamed(row: Mapping[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """Return the row with the names in `taken` replaced by free ones."""
    renamed = free_names(row, taken)
    return {renamed.get(name, name): value for name, value in row.items()}
