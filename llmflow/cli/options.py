"""Options that several commands take, their value types and their groups in the help."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from llmflow.errors import ConfigurationError
from llmflow.types import parse_amount

if TYPE_CHECKING:
    _NumberType = click.ParamType[float]
    _TextType = click.ParamType[str]
else:  # generic since click 8.4 only
    _NumberType = _TextType = click.ParamType

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Prompt and rows": (
        "prompt",
        "prompt_file",
        "system",
        "cache_system",
        "limit",
        "format",
        "encoding",
        "delimiter",
        "on_bad_row",
        "skip_empty",
        "fail_fast",
    ),
    "Model": ("model", "base_url", "max_tokens", "temperature", "option", "timeout"),
    "Limits": ("rpm", "tpm", "concurrency", "budget"),
    "Output": ("output", "details", "escape_formulas"),
    "Journal": ("run", "no_journal", "retry_failed", "dedupe", "cache", "drain"),
    "Batch mode": ("mode", "deadline", "fallback", "detach"),
}
_OTHER: Final = "Other"


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of options under its title."""
        titles = {name: title for title, names in _GROUPS.items() for name in names}
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in (*_GROUPS, _OTHER)}
        for param in self.get_params(ctx):
            # An argument's own words are in the command's text.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                found[titles.get(param.name or "", _OTHER)].append(record)
        for title, records in found.items():
            if records:
                with formatter.section(f"{title} options"):
                    formatter.write_dl(records)


class Amount(_NumberType):
    """A number above 0, such as 500, 10k or 2M."""

    name = "AMOUNT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number, or say how one is written."""
        name = param.name if param is not None and param.name else "amount"
        try:
            return parse_amount(value, name=name)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


class KeyValue(_TextType):
    """A provider option as KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that there is a key, and return the text as it is."""
        text = str(value)
        key, equals, _ = text.partition("=")
        if not equals or not key.strip():
            self.fail(f"write KEY=VALUE, such as top_p=0.9; got {text!r}", param, ctx)
        own = _OWN_OPTIONS.get(key.strip())
        if own is not None:
            self.fail(f"{key.strip()} has an option of its own: {own}", param, ctx)
        return text


_OWN_OPTIONS = {
    "model": "--model",
    "max_tokens": "--max-tokens",
    "messages": "--prompt",
    "temperature": "--temperature",
}


def provider_options(given: Sequence[str]) -> dict[str, Any]:
    """Return provider options from KEY=VALUE texts; a value that is JSON is read as such.

    >>> provider_options(["top_p=0.9", "user=me", 'stop=["END"]'])
    {'top_p': 0.9, 'user': 'me', 'stop': ['END']}
    """
    options: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        try:
            options[key.strip()] = json.loads(value)
        except (ValueError, RecursionError):  # the second one where it is nested too deep
            options[key.strip()] = value
    return options


def run_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the names of runs that begin with a text, for the shell's completion."""
    from llmflow.errors import LLMFlowError
    from llmflow.runs.catalog import list_runs

    try:
        return [run.name for run in list_runs() if run.name.startswith(incomplete)]
    except (LLMFlowError, OSError):
        return []


def given_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """Return the prompt from --prompt or --prompt-file.

    Raises:
        click.UsageError: both or neither are given, or the file cannot be read.
    """
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("--prompt and --prompt-file are both given: leave out one of them")
    if prompt is not None:
        return prompt
    if prompt_file is None:
        raise click.UsageError("Missing option '--prompt' (or '--prompt-file')")
    try:
        text = Path(prompt_file).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"--prompt-file: {prompt_file!r} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(
            f"--prompt-file: cannot read {prompt_file!r}: {reason.lower()}"
        ) from None
    if not text.strip():
        raise click.UsageError(f"--prompt-file: {prompt_file!r} is empty")
    return text.removesuffix("\n")


AMOUNT = Amount()

CONFIG = click.option(
    "--config",
    metavar="FILE",
    help="Configuration file; by default LLMFLOW_CONFIG, or llmflow.toml here or above.",
)
"""The option of every command that calls a model."""

DETAILS = click.option(
    "--details",
    is_flag=True,
    help="Add the columns finish_reason, model, input_tokens, output_tokens, cost, attempts and "
    "error to each row.",
)
"""The option of the commands that write rows."""

_QUESTION: Final = (
    click.option(
        "-p",
        "--prompt",
        help="What to ask for each row; {text} is replaced by the row's field 'text'.",
    ),
    click.option("--prompt-file", metavar="FILE", help="Read the prompt from a file."),
    click.option(
        "-m",
        "--model",
        required=True,
        help="PROVIDER/MODEL, such as openai/gpt-6-luna; sim/demo needs no key.",
    ),
    click.option(
        "-O",
        "--option",
        type=KeyValue(),
        multiple=True,
        help="A field of the provider's request, such as top_p=0.9; JSON values are read as "
        "JSON. Give it again for more.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long one attempt may take.",
    ),
)


def question_options(command: CommandT) -> CommandT:
    """Add the options that say what is asked, and of which model."""
    for option in reversed(_QUESTION):
        command = option(command)
    return command


ESCAPE_FORMULAS: Final = click.option(
    "--escape-formulas",
    is_flag=True,
    default=None,
    help="Put ' before cells of a CSV or TSV that a spreadsheet would run as formulas.",
)
