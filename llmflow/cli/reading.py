"""Reading of INPUT by the commands: options, messages and rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

from llmflow.cli.terminal import Notice, say
from llmflow.errors import InputError

if TYPE_CHECKING:
    from llmflow.cli.task import Task
    from llmflow.rows import RowSource, Selection

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_ON_BAD_ROW: Final = click.option(
    "--on-bad-row",
    type=click.Choice(["fail", "skip"]),
    help="What becomes of rows that cannot be read or lack a field: a failed row (fail, the "
    "default), or they are left out and counted (skip).",
)
_SKIP_EMPTY: Final = click.option(
    "--skip-empty",
    is_flag=True,
    default=None,
    help="Leave out and count rows with nothing in the fields of the prompt.",
)
_READING: Final = (
    click.option(
        "--format",
        type=click.Choice(["jsonl", "csv", "tsv", "txt"]),
        help="Format of INPUT, where its name does not tell: of standard input.",
    ),
    click.option(
        "--encoding", metavar="NAME", help="Encoding of INPUT, such as latin-1; by default utf-8."
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="What separates the columns of a CSV, such as ';' or tab; by default it is found "
        "out by the header.",
    ),
    _ON_BAD_ROW,
    _SKIP_EMPTY,
)


def reading_options(command: CommandT) -> CommandT:
    """Add the options that say how INPUT is read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def bad_row_options(command: CommandT) -> CommandT:
    """Add those of them that may change between the sessions of a run."""
    return _ON_BAD_ROW(_SKIP_EMPTY(command))


def rows_of(task: Task) -> tuple[RowSource, Selection]:
    """Return the rows of a task, to be closed, and what makes prompts of them.

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
    """Check that the prompt fits some of the rows, and say what was found out about them.

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


def tell_repaired(rows: RowSource) -> None:
    """Warn of values that were not read as they stand, once all rows are read."""
    if (repaired := rows.repaired) is not None:
        say(f"llmflow: warning: {repaired}")


def _stdin(task: Task) -> IO[bytes] | None:
    """Open standard input, as a stream of our own: a thread in sys.stdin would break the exit."""
    if task.source != "-":
        return None
    try:
        return open(0, "rb", closefd=False)
    except OSError:
        raise InputError("<stdin> is closed: name a file, or pipe rows in") from None
