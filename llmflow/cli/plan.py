"""``llmflow plan``: what a run would ask, cost and take, without sending anything.

``llmflow run --dry-run`` shows the same::

    from llmflow.cli.plan import show_plan

    return show_plan(task)  # a `llmflow.cli.task.Task`; returns the exit code, 0

In Python: `llmflow.jobs.plan.make_plan`, which returns a frozen `Plan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmflow.cli.task import Task


def show_plan(task: Task, *, sample: int = 0, exact: bool = False) -> int:
    """Print what a run of this task would come to; return the exit code.

    Args:
        task: what would be run; ``no_journal`` looks into no run.
        sample: how many items are really asked, and paid, to learn how long answers are.
        exact: whether the tokens of every item are measured.
    """
    raise NotImplementedError
