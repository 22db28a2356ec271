"""Results of a map's items, and their counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from llmflow.errors import LLMFlowError, redact
from llmflow.failure_notes import PARTIAL, Finished
from llmflow.format import counted
from llmflow.types import ParsedT, Response

ItemT = TypeVar("ItemT")
_T = TypeVar("_T")

_UNSET: Final[Any] = object()
_NOTE: Final = "llm.map: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[ItemT, ParsedT]):
    """One item with its answer, or with its error.

    >>> from llmflow.errors import InputError
    >>> Result(index=3, item="A long text.", error=InputError("too long")).text
    Traceback (most recent call last):
    llmflow.errors.InputError: too long

    Args:
        index: the item's place in the input, from 0.
        item: the item itself; of a frame, the row as a dict.
        response: the whole answer; None if there is none.
        error: why there is no answer; None if there is one.
    """

    index: int
    item: ItemT
    response: Response[ParsedT] | None = None
    error: LLMFlowError | None = None

    if not TYPE_CHECKING:  # Result[str] at run time, too: only type checkers know defaults
        __class_getitem__ = classmethod(GenericAlias)

    @property
    def text(self) -> str:
        """The answer's text.

        Raises:
            LLMFlowError: the item has no answer: its `error`.
        """
        if self.response is None:
            raise self.error or LLMFlowError(f"item {self.index} has no answer")
        return self.response.text

    @property
    def parsed(self) -> ParsedT:
        """The answer as the `output_type`; without one, None.

        Raises:
            LLMFlowError: the item has no answer: its `error`.
        """
        if self.response is None:
            raise self.error or LLMFlowError(f"item {self.index} has no answer")
        return self.response.parsed

    @property
    def details(self) -> dict[str, Any]:
        """Details of the call, as the columns of ``details=True``.

        >>> Result(index=0, item="A", error=LLMFlowError("no")).details["error"]
        'LLMFlowError: no'
        """
        from llmflow.rows.records import answer_details, failure_details

        if self.response is not None:
            return answer_details(self.response)
        error = self.error or LLMFlowError("no answer")
        return {**failure_details(error), "error": error_text(error)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCounts:
    """Counts of a map's items so far.

    Args:
        total: how many there are; None where the source does not say.
        read: how many were taken from the source.
        answered: how many have an answer.
        failed: how many failed for good.
        delivered: how many of these were handed out.
        cut: how many of the answers were cut off at `max_tokens`.
        empty: how many of the answers are empty.
    """

    total: int | None = None
    read: int = 0
    answered: int = 0
    failed: int = 0
    delivered: int = 0
    cut: int = 0
    empty: int = 0

    @property
    def unfinished(self) -> int | None:
        """The number of unfinished items; None while unknown.

        After the end these are the ones that were not asked, or whose calls were
        cancelled. They can be asked by the next run.
        """
        if self.total is None:
            return None
        return max(0, self.total - self.answered - self.failed)

    @property
    def _odd(self) -> str:
        parts = ((self.cut, "cut at max_tokens"), (self.empty, "empty"))
        told = ", ".join(f"{number:,} {what}" for number, what in parts if number)
        return f" ({told})" if told else ""

    def __str__(self) -> str:
        answered = (
            f"{counted(self.answered, 'was', 'were')} answered{self._odd}, {self.failed:,} failed"
        )
        if self.total is None:
            left = self.read - self.answered - self.failed
            read, neither = counted(self.read, "item"), counted(left, "has", "have")
            rest = "and the source was not read to its end"
            return f"of {read} read, {answered}, {neither} neither, {rest}"
        neither = counted(self.unfinished or 0, "has", "have")
        return f"of {counted(self.total, 'item')}, {answered}, {neither} neither"


class ResultList(list[Result[ItemT, ParsedT]], Generic[ItemT, ParsedT]):
    """All results, in the order of the input."""

    def __init__(self, results: Iterable[Result[ItemT, ParsedT]], counts: MapCounts) -> None:
        super().__init__(results)
        self.counts = counts

    if not TYPE_CHECKING:  # ResultList[str] at run time, too: only type checkers know defaults
        __class_getitem__ = classmethod(GenericAlias)

    @overload
    def texts(self) -> list[str]: ...
    @overload
    def texts(self, default: _T) -> list[str | _T]: ...
    def texts(self, default: Any = _UNSET) -> list[Any]:
        """Return the answers' texts.

        Args:
            default: what takes the place of a text where an item failed.

        Raises:
            LLMFlowError: an item failed and there is no default: the first one's error.
        """
        if default is _UNSET:
            return [result.text for result in self]
        return [default if each.response is None else each.response.text for each in self]

    @overload
    def parsed(self) -> list[ParsedT]: ...
    @overload
    def parsed(self, default: _T) -> list[ParsedT | _T]: ...
    def parsed(self, default: Any = _UNSET) -> list[Any]:
        """Return the answers as the `output_type`.

        Args:
            default: what takes the place of a value where an item failed.

        Raises:
            LLMFlowError: an item failed and there is no default: the first one's error.
        """
        if default is _UNSET:
            return [result.parsed for result in self]
        return [default if each.response is None else each.response.parsed for each in self]

    @property
    def failed(self) -> list[Result[ItemT, ParsedT]]:
        """The results of the items that failed."""
        return [result for result in self if result.response is None]


def error_text(error: LLMFlowError) -> str:
    """Return an error as one line for a table.

    >>> from llmflow.errors import InputError
    >>> error_text(InputError("row 3: field 'text' is null"))
    "InputError: row 3: field 'text' is null"
    """
    return f"{type(error).__name__}: {redact(str(error))}"


def note(error: BaseException, counts: MapCounts) -> None:
    """Note unfinished items on an exception, replacing other maps' notes."""
    notes = [each for each in getattr(error, "__notes__", ()) if not each.startswith(_NOTE)]
    error.__notes__ = [*notes, f"{_NOTE}{counts}"]


def attach(error: BaseException, results: object, done: int, total: int | None) -> None:
    """Let `llmflow.partial_results` find these results on the exception."""
    error.__dict__[PARTIAL] = Finished(results)
    if not isinstance(error, Exception):
        from llmflow.runs.interruptions import tell_results

        tell_results(error, done, total)


def ended_stream(error: BaseException, delivered: int) -> None:
    """Say what is left of a stream that a Ctrl-C has ended."""
    if not isinstance(error, Exception | GeneratorExit):
        from llmflow.runs.interruptions import tell_stream

        tell_stream(error, delivered)
