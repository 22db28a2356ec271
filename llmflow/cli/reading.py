"""Reading of INPUT by the commands: rows and messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from llmflow.cli.terminal import Notice, say
from llmflow.errors import InputError

if TYPE_CHECKING:
    from llmflow.cli.task import Task
    from llmflow.rows import RowSource, Selection


def rows_of(task: Task) -> tuple[RowSource, Selection]:
    """Open the rows of a task, and return them with their prompt.

    Raises:
        InputError: there is nothing to read, or an option does not fit it.
    """
    from llmflow.rows import PromptTemplate, Selection, open_rows

    selection = Selection(
        PromptTemplate(task.prompt),
        on_bad_row="skip" if task.on_bad_row == "skip" else "fail",
        skip_empty=bool(task.skip_empty),
    )
    rows = open_rows(
        task.source,
        limit=task.limit,
        stdin=_stdin(task),
        format=task.format,
        encoding=task.encoding,
        delimiter=task.delimiter,
        bad_rows="keep",
    )
    return rows, selection


def check_prompt(
    rows: RowSource,
    selection: Selection,
    *,
    quiet: bool = False,
    each: Callable[[], None] = lambda: None,
) -> None:
    """Check that the prompt fits some rows, and print remarks on them.

    Args:
        rows: the rows.
        selection: has the prompt.
        quiet: whether nothing is said.
        each: called for every row that is read.

    Raises:
        InputError: the prompt is not for these rows.
    """
    from llmflow.rows import check_fits

    waiting = f"waiting for the first row of {rows.name}; Ctrl-C stops"
    with Notice(lambda: waiting, enabled=rows.once and not quiet):
        check_fits(rows, selection.template, each=each)
    if not quiet:
        for remark in rows.remarks:
            say(f"llmflow: {remark}")


def warn_of_repairs(rows: RowSource) -> None:
    """Warn of repaired values, once all rows are read."""
    if (repaired := rows.repaired) is not None:
        say(f"llmflow: warning: {repaired}")


def _stdin(task: Task) -> IO[bytes] | None:
    """Open standard input anew: a thread in sys.stdin would break the exit."""
    if task.source != "-":
        return None
    try:
        return open(0, "rb", closefd=False)
    except OSError:
        raise InputError("<stdin> is closed: name a file, or pipe rows in") from None
