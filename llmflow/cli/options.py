"""Option sets shared by commands, their value types and grouped help."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from llmflow.errors import ConfigurationError
from llmflow.types import parse_amount

if TYPE_CHECKING:
    _NumberType = click.ParamType[float]
else:  # generic since click 8.4 only
    _NumberType = click.ParamType

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_GROUPS: Final = {
    "Prompt and rows": "prompt prompt_file system cache_system limit format encoding delimiter "
    "on_bad_row skip_empty fail_fast",
    "Model": "model base_url max_tokens temperature option timeout",
    "Structured output": "schema reasks output_method",
    "Limits": "rpm tpm concurrency budget",
    "Output": "output details escape_formulas",
    "Journal": "run no_journal retry_failed dedupe cache drain",
    "Batch mode": "mode deadline fallback detach",
}
_OTHER: Final = "Other"


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of options under its title."""
        titles = {name: title for title, names in _GROUPS.items() for name in names.split()}
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


class BareCommandError(click.UsageError):
    """A group of commands was called without one: show its help."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__("Missing command", ctx)
        self.help = ctx.get_help()


class CommandGroup(click.Group):
    """A group that suggests the command or option that was probably meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; without any, ask for help."""
        # Before 8.2, click shows the help by itself and takes that for a success.
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            raise BareCommandError(ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown name is refused with the nearest one."""
        name = args[0] if args else ""
        names = self.list_commands(ctx)
        if name and not name.startswith("-") and name not in names:
            near = get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)


def usage_message(error: click.UsageError) -> str:
    """Return the message of a usage error, in any version of click."""
    if isinstance(error, click.NoSuchOption):  # click's own words depend on its version
        name, names = error.option_name, error.possibilities or ()
        # A name of which it is the end or the beginning, before one with similar letters.
        whole = [each for each in names if name.strip("-") in each.strip("-").split("-")]
        near = whole or get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"No such option {error.option_name!r}.{hint}".rstrip(".")
    return error.format_message().rstrip(".")


class Amount(_NumberType):
    """A number above 0, such as 500, 10k or 2M."""

    name = "AMOUNT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        name = param.name if param is not None and param.name else "amount"
        try:
            return parse_amount(value, name=name)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


_OWN_OPTIONS: Final = {
    "model": "--model",
    "max_tokens": "--max-tokens",
    "messages": "--prompt",
    "temperature": "--temperature",
}


def _key_value(text: str) -> str:
    """Return a provider option, KEY=VALUE, that has a key of its own."""
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise click.BadParameter(f"write KEY=VALUE, such as top_p=0.9; got {text!r}")
    own = _OWN_OPTIONS.get(key.strip())
    if own is not None:
        raise click.BadParameter(f"{key.strip()} has an option of its own: {own}")
    return text


def provider_options(given: Sequence[str]) -> dict[str, Any]:
    """Return provider options from KEY=VALUE texts, with values read as JSON.

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
    """Complete the name of a run, for the shell."""
    from llmflow.errors import LLMFlowError
    from llmflow.runs.catalog import list_runs

    try:
        return [run.name for run in list_runs() if run.name.startswith(incomplete)]
    except (LLMFlowError, OSError):
        return []


def json_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:  # noqa: ARG001
    """Complete the name of a file, for the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def given_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """Return the prompt from --prompt or --prompt-file."""
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
    help="Configuration file; default: LLMFLOW_CONFIG, or llmflow.toml here or above.",
)
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
JSON_LINES: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one object for each run."
)
BUDGET: Final = click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="US dollars that the run may spend, over all its sessions.",
)
RETRY_FAILED: Final = click.option(
    "--retry-failed", is_flag=True, help="Retry rows that failed in an earlier session."
)


SCHEMA: Final = click.option(
    "--schema",
    metavar="SCHEMA",
    shell_complete=json_files,
    help="Ask for data instead of text: a file with a JSON Schema (FILE.json), a type in a module "
    "(package.module:Model), or fields: 'sentiment: positive|negative|neutral, topics: list[str], "
    "score: float?'. Each field becomes a column.",
)
SCHEMA_AGAIN: Final = click.option(
    "--schema",
    metavar="SCHEMA",
    shell_complete=json_files,
    help="Check answers by this type, such as package.module:Model, in place of the stored schema, "
    "which must be the same.",
)
REASKS: Final = click.option(
    "--reasks",
    type=click.IntRange(min=0),
    metavar="N",
    help="How often to ask again for an answer that does not fit the schema; default: 1.",
)


def drain_option(default: str) -> Callable[[CommandT], CommandT]:
    """Return --drain for a command with this default."""
    return click.option(
        "--drain",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help=f"How long to wait for requests in flight once stopped; default: {default}.",
    )


def option_set(*options: Callable[..., Any]) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds options to a command, in this order."""

    def add(command: CommandT) -> CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return add


endpoint_options = option_set(
    click.option("--base-url", metavar="URL", help="Address of a compatible server, up to /v1."),
    click.option("--rpm", type=AMOUNT, help="Requests per minute that the provider allows."),
    click.option("--tpm", type=AMOUNT, help="Tokens per minute that the provider allows."),
)
"""The server of a model, and its limits."""

bad_row_options = option_set(
    click.option(
        "--on-bad-row",
        type=click.Choice(["fail", "skip"]),
        help="Rows that cannot be read or lack a field: count them as failed (fail, the default), "
        "or leave them out and count them (skip).",
    ),
    click.option(
        "--skip-empty",
        is_flag=True,
        default=None,
        help="Leave out and count rows whose prompt fields are all empty.",
    ),
)
"""What may change between the sessions of a run."""

task_options = option_set(
    click.option(
        "-p",
        "--prompt",
        help="Prompt for each row; {text} is replaced by the row's field 'text'.",
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
        type=_key_value,
        metavar="KEY=VALUE",
        multiple=True,
        help="A field of the provider's request, such as top_p=0.9; JSON values are read as "
        "JSON. Repeat it for more.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long one attempt may take.",
    ),
    click.option(
        "--format",
        type=click.Choice(["jsonl", "csv", "tsv", "txt"]),
        help="Format of INPUT, if its name does not show it, as with standard input.",
    ),
    click.option(
        "--encoding", metavar="NAME", help="Encoding of INPUT, such as latin-1; default: utf-8."
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="Column separator of a CSV, such as ';' or tab; default: detected from the header.",
    ),
    bad_row_options,
    endpoint_options,
    click.option("--max-tokens", type=click.IntRange(min=1), help="Upper bound of each answer."),
    click.option("--temperature", type=click.FloatRange(min=0), help="Sampling temperature."),
    click.option("--system", help="System prompt for every row."),
    click.option(
        "--cache-system",
        type=click.Choice(["5m", "1h"]),
        help="Mark the system prompt for the provider's prompt cache, for this long, if the "
        "provider requires marks (anthropic).",
    ),
    SCHEMA,
    REASKS,
    click.option(
        "--output-method",
        type=click.Choice(["json_schema", "json_object", "tool", "prompt"]),
        help="How to ask for it: the provider's JSON-schema mode, its JSON mode, a tool, or in the "
        "prompt; default: the first of them that the model can do.",
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."),
    BUDGET,
    click.option("--run", metavar="NAME", help="Name of the run; default: derived from OUT."),
    RETRY_FAILED,
    CONFIG,
)
"""What `llmflow run` and `llmflow plan` have in common."""

output_options = option_set(
    click.option(
        "--details",
        is_flag=True,
        help="Add the columns finish_reason, model, input_tokens, output_tokens, cost, attempts "
        "and error to each row.",
    ),
    click.option(
        "--escape-formulas",
        is_flag=True,
        default=None,
        help="Put ' before cells of a CSV or TSV that a spreadsheet would run as formulas.",
    ),
    click.option("--quiet", is_flag=True, help="Show neither progress nor report."),
    click.option("--json", "as_json", is_flag=True, help="Print the closing report as JSON."),
)
"""What the commands have in common that write rows."""
