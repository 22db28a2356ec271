"""Prepares a task's rows, prompt and model, and checks open files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Final

from llmflow.cli.terminal import Notice, say
from llmflow.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from llmflow.cli.task import Task
    from llmflow.config.settings import Settings
    from llmflow.jobs.reachability import Reachability
    from llmflow.llm import LLM
    from llmflow.rows import RowSource, Selection
    from llmflow.typed.output_type import OutputType

_NEEDED: Final = 32
"""Connections, the files of the journal, input and output, and modules that come late."""
_REMEDY: Final = "raise the limit, such as with `ulimit -n 256`"


def rows_of(task: Task) -> tuple[RowSource, Selection]:
    """Open the rows of a task, and return them with their prompt."""
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

    `each` is called for every row that is read.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """The model of a task, and its settings."""

    llm: LLM
    contact: Reachability
    settings: Settings
    given: Mapping[str, Any]


def resolve_model(task: Task, output: OutputType | None = None) -> ResolvedModel:
    """Return the LLM of a task, which asks for `output`."""
    from llmflow.cli.options import provider_options
    from llmflow.config import load_config
    from llmflow.jobs.reachability import Reachability
    from llmflow.llm import LLM
    from llmflow.types import Quota

    config, contact = load_config(), Reachability()
    settings = config.settings(task.model)
    # Each option takes the place of its own setting, not of the whole quota.
    limits = {"rpm": task.rpm, "tpm": task.tpm}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    quota = replace(settings.quota_over(None) or Quota(), **given) if given else None
    provider = settings.provider(base_url=task.base_url)
    marks: dict[str, Any] = {}
    if task.cache_system is not None:
        if getattr(provider, "marked_prefix", None) is None:
            raise ConfigurationError(
                f"--cache-system is of no use with {task.model}: it is for providers that want "
                "prompts to be marked for their cache; leave it out"
            )
        marks = {"cache_system": task.cache_system}
    typed: dict[str, Any] = {}
    if output is not None:
        typed = {"output_type": output, "output_method": task.output_method}
        if task.reasks is not None:
            typed["reasks"] = task.reasks
    llm = LLM(
        task.model,
        base_url=task.base_url,
        quota=quota,
        retry=contact.policy(settings.retry_over(provider.default_retry)),
        system=task.system,
        max_tokens=task.max_tokens,
        temperature=task.temperature,
        dedupe=True if task.dedupe else None,
        cache=task.cache,
        config=config,
        timeout=task.timeout,
        options={**provider_options(task.option), **marks},
        **typed,
    )
    return ResolvedModel(llm=llm, contact=contact, settings=settings, given=given)


def check_descriptors() -> None:
    """Refuse a limit on open files under which something would fail halfway."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return
    used = _used()
    if used is None or most - used < _NEEDED:
        raise ConfigurationError(
            f"only {most:,} files may be open at once, and a run needs "
            f"{_NEEDED + (used or 0):,}: {_REMEDY}"
        )


def system_error(error: OSError) -> str:
    """Describe an error of the system, with its remedy if known."""
    name = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    text = f"{error.strerror or type(error).__name__}{name}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{text}: {_REMEDY}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}: make room on the disk and run again"
    return text


def _used() -> int | None:
    """Return how many files are open; None if that is unknown."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # noqa: PTH208 - names only, and one file less
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return 3
