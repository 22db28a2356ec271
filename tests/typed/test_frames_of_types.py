"""Frames of answers of any type: nothing is refused by a library, and types never change."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from llmflow.mapping.arrow_frames import ArrowTable
from llmflow.mapping.collectors import FrameCollector
from llmflow.mapping.frame_table import Table
from llmflow.mapping.pandas_frames import PandasTable
from llmflow.mapping.polars_frames import PolarsTable
from llmflow.mapping.result import MapCounts, Result
from llmflow.parts import Parsed
from llmflow.simulator.answer import answer
from llmflow.typed.output_type import OutputType, as_output_type
from tests.examples import examples
from tests.mapping.asking import response
from tests.typed.fourteen import BARE, FOURTEEN
from tests.typed.test_schemas_at_services import KINDS, METHODS, asked

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")


def tables(rows: int) -> list[Table]:
    texts = ["text"] * rows
    return [
        PandasTable(pandas.DataFrame({"text": texts}, dtype="string"), single=False),
        PolarsTable(polars.DataFrame({"text": texts}, schema={"text": polars.String})),
        ArrowTable(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())})),
    ]


def frame(table: Table, output: OutputType, values: list[Any]) -> Any:
    """Return a frame with these answers."""
    collector = FrameCollector(table, details=False, output=output)
    for index, value in enumerate(values):
        found = replace(response(str(value)), outputs=(Parsed(value=value),))
        collector.add(Result(index=index, item={}, response=found))
    return collector.collected(MapCounts())


def types(made: Any) -> Any:
    if isinstance(made, pandas.DataFrame):
        return dict(made.dtypes)
    return made.schema


def cells(made: Any) -> list[dict[str, Any]]:
    if isinstance(made, pandas.DataFrame):
        return made.to_dict("records")  # type: ignore[no-any-return]
    return made.to_dicts() if isinstance(made, polars.DataFrame) else made.to_pylist()  # type: ignore[no-any-return]


def check(output: OutputType) -> None:
    chosen = METHODS["openai"].forced_to("prompt").chosen(output.output)
    said = answer(asked("openai", output.name, chosen), style="summary")
    value = output.parse(said.text)
    plain = output.row(value)
    for full, empty in zip(tables(2), tables(0), strict=True):
        made = frame(full, output, [value, value])
        first, second = cells(made)
        assert first["error"] is None
        for name, found in plain.items():
            if found is None:
                continue
            assert first[name] is not None, name
            assert first[name] == second[name]
        assert types(made) == types(frame(empty, output, []))


@examples(100)
@given(KINDS.filter(lambda kind: kind is not type(None)))
def test_types_by_chance_fit_the_frames_of_every_library(kind: Any) -> None:
    told: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = told.append  # type: ignore[method-assign]
    logger = logging.getLogger("llmflow")
    logger.addHandler(handler)
    try:
        check(as_output_type(kind))
    finally:
        logger.removeHandler(handler)
    assert told == []


@pytest.mark.parametrize("name", [*FOURTEEN, *BARE])
def test_each_type_of_the_matrix_fits(name: str) -> None:
    check(as_output_type({**FOURTEEN, **BARE}[name]))
