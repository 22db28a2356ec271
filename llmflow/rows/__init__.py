"""Rows in and out: files, folders, streams, and prompts from rows."""

from llmflow.rows.inputs import BadRow, Row
from llmflow.rows.records import RowLayout, failed_path
from llmflow.rows.source import RowSource, open_rows
from llmflow.rows.template import LeftOut, OnBadRow, PromptTemplate, Selection, check_fits
from llmflow.rows.writers import RowWriter, open_output

__all__ = [
    "BadRow",
    "LeftOut",
    "OnBadRow",
    "PromptTemplate",
    "Row",
    "RowLayout",
    "RowSource",
    "RowWriter",
    "Selection",
    "check_fits",
    "failed_path",
    "open_output",
    "open_rows",
]
