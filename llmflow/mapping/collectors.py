"""Collects a map's results into a list or a frame."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from llmflow.format import counted
from llmflow.mapping.engine import MapEngine
from llmflow.mapping.frame_table import Columns, Table
from llmflow.mapping.result import MapCounts, Result, ResultList, attach, error_text
from llmflow.rows.column_values import read_column
from llmflow.rows.records import DETAILS, free_names
from llmflow.surrogates import well_formed
from llmflow.typed.columns import Column
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.typed.output_type import OutputType

logger = logging.getLogger("llmflow")


class Collector:
    """Puts results together that come in any order."""

    def __init__(self) -> None:
        self._results: list[Result[Any]] = []

    def add(self, result: Result[Any]) -> None:
        """Take one result."""
        self._results.append(result)

    def collected(self, counts: MapCounts) -> Any:
        """Return all of them in the order of the items."""
        return ResultList(sorted(self._results, key=attrgetter("index")), counts)

    def attach_to(self, error: BaseException, engine: MapEngine[Any] | None) -> None:
        """Attach what there is to the exception that ended a map."""
        counts = MapCounts() if engine is None else engine.counts
        # Answers that came while something else was waited for.
        rest = () if engine is None else tuple(engine.ready)
        for result in rest:
            self.add(result)
        counts = replace(counts, delivered=counts.delivered + len(rest))
        results = self.collected(counts)
        done = len(results) if isinstance(results, list) else counts.delivered
        attach(error, results, done, counts.total)


class FrameCollector(Collector):
    """Keeps what columns hold: a frame has no place for more."""

    def __init__(self, table: Table, *, details: bool, output: OutputType | None = None) -> None:
        self._table = table
        self._details = details
        self._output = output
        ours = DETAILS if details else ("error",)
        self._fields = () if output is None else named_apart(output.columns, ours)
        fields = ("response",) if output is None else [shown for shown, _ in self._fields]
        self._columns: Columns = {name: [None] * len(table) for name in (*fields, *ours)}
        self._misfits = 0

    def add(self, result: Result[Any]) -> None:
        """Take one result."""
        columns, index = self._columns, result.index
        if self._details:
            for name, value in result.details.items():
                columns[name][index] = value
        if result.response is None:
            if result.error is not None:
                columns["error"][index] = error_text(result.error)
        elif self._output is None:
            columns["response"][index] = result.response.text
        else:
            self._fill(self._output, index, result.response)

    def _fill(self, output: OutputType, index: int, response: Response) -> None:
        """Put an answer's fields into its row, as plain JSON data."""
        columns = self._columns
        try:
            found = output.row(response.parsed).get
        except ValueError as error:  # the type's own code cannot write its value
            self._misfits += 1
            columns["error"][index] = f"{type(error).__name__}: {error}: {response.text}"
            return
        for shown, column in self._fields:
            columns[shown][index] = found(column.name)

    def collected(self, counts: MapCounts) -> Any:  # noqa: ARG002 - no place for them
        """Return the frame with its new columns."""
        if self._output is None:
            return self._table.joined(self._columns)
        columns = {**self._columns, "error": list(self._columns["error"])}
        number = self._misfits
        for shown, column in self._fields:
            as_text = self._table.json_as_text
            columns[shown], misfits = read_column(column, columns[shown], json_as_text=as_text)
            for index, reason in misfits.items():
                before = columns["error"][index]
                columns["error"][index] = reason if before is None else f"{before}; {reason}"
            number += len(misfits)
        if number:
            logger.warning(
                "llm.map: %s not fit the column, and stands in the column 'error'",
                counted(number, "value does", "values do"),
            )
        return self._table.joined(columns, {shown: each.kind for shown, each in self._fields})


def named_apart(columns: Sequence[Column], ours: Collection[str]) -> list[tuple[str, Column]]:
    """Return an answer's columns with names that none of ours has.

    >>> from llmflow.typed.columns import Scalar
    >>> [name for name, _ in named_apart([Column("error", Scalar("string"))], {"error"})]
    ['output_error']
    """
    renamed = free_names([each.name for each in columns], ours, prefix="output_")
    return [(well_formed(renamed.get(each.name, each.name)), each) for each in columns]
