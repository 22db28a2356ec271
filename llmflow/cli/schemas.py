"""Output types of --schema: named now, or stored with a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from llmflow.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from llmflow.cli.task import Task
    from llmflow.typed.output_type import OutputType

_FOR_A_SCHEMA: Final = {"reasks": "--reasks", "output_method": "--output-method"}


def named_output(task: Task) -> OutputType | None:
    """Return what the answers of a task are to be; None: text.

    A type in a module is imported: the task must be what the user has typed now.

    Raises:
        ConfigurationError: the schema is none, or an option has nothing to say without one.
    """
    if task.schema is None:
        for name, option in _FOR_A_SCHEMA.items():
            if getattr(task, name) is not None:
                raise ConfigurationError(f"{option} is for answers of a --schema: leave it out")
        return None
    from llmflow.typed.named import from_name

    return from_name(task.schema)


def stored_output(task: Task) -> OutputType | None:
    """Return the stored output type of a run's task, or None.

    Nothing is imported, and no file is read: the schema is as it was when the run began.

    Raises:
        InputError: the run does not say.
    """
    stored = task.stored_schema
    if task.schema is None:
        return None
    if stored is None and _kind_of(task.schema) == "one_line":
        return named_output(task)
    from llmflow.typed.output_type import OutputType
    from llmflow.typed.stored_check import StoredCheck

    stored = stored or {}
    name, schema, wraps = stored.get("name"), stored.get("schema"), stored.get("wraps") is True
    if not isinstance(name, str) or not isinstance(schema, dict):
        raise InputError(f"the journal of run {task.run} has no schema: run its command again")
    if stored.get("of_type") is True:
        return OutputType(schema, name, StoredCheck(schema, wrapped=wraps))
    return OutputType.restored(name=name, schema=schema, wraps=wraps)


def with_stored_schema(task: Task, output: OutputType | None) -> Task:
    """Return a task that brings along what its schema stands for now."""
    if output is None or task.schema is None or task.stored_schema is not None:
        return task
    kind, schema = _kind_of(task.schema), task.schema
    if kind == "one_line":  # it says all by itself
        return task
    if kind == "file":
        schema = str(Path(schema).absolute())
    stored = {
        "name": output.name,
        "schema": dict(output.schema),
        "wraps": output.wraps,
        "of_type": not isinstance(output.type, Mapping),
    }
    return replace(task, schema=schema, stored_schema=stored)


def resumed_output(task: Task, schema: str | None) -> tuple[Task, OutputType | None]:
    """Return a run's task with its output type.

    That may be named once more, as `schema`.

    Raises:
        ConfigurationError: the type cannot be imported, or is none.
        InputError: it is another one than the run began with.
    """
    before = stored_output(task)
    if schema is None:
        return task, before
    if before is None:
        raise InputError(
            f"the run {task.run} has no schema: run its command again, with --schema, to ask anew"
        )
    named = replace(task, schema=schema, stored_schema=None)
    now = named_output(named)
    if now is None or _content(before) != _content(now):
        raise InputError(
            f"{schema} is another schema than the one that the run {task.run} began with: leave "
            "out --schema, or run its command again with it, to ask anew"
        )
    return named, now


def stored_schema_remark(task: Task) -> str | None:
    """Return a remark on a module's stored schema, or None."""
    if task.stored_schema is None or task.schema is None or _kind_of(task.schema) != "module":
        return None
    return (
        f"answers are checked by the stored schema of {task.schema}; --schema {task.schema} "
        "imports it and checks them by the type itself"
    )


def _content(output: OutputType) -> tuple[str, bytes]:
    """Return what an output type adds to a question, as it is."""
    return output.name, orjson.dumps(output.schema)


def _kind_of(schema: str) -> str:
    from llmflow.typed.named import kind_of

    return kind_of(schema)
