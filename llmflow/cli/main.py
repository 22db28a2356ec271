"""``llmflow``: the group of commands, and how errors are printed."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn

import click

import llmflow
from llmflow.cli.options import BareCommandError, CommandGroup, usage_message
from llmflow.cli.prepare import system_error
from llmflow.cli.signals import Postponed, exit_at_next_signal, exit_code, terminable
from llmflow.cli.terminal import complain, printable, say, write
from llmflow.errors import ConfigurationError, LLMFlowError
from llmflow.transport import raise_connection_limit

# Loaded when named: --help must not wait for what a command needs.
_COMMANDS = {
    "run": ("run_command", "Answer a prompt for every row of a file or folder."),
    "plan": ("plan", "Estimate what a run would send, cost and take."),
    "resume": ("run_command", "Continue a run that was stopped."),
    "status": ("job_commands", "Show the progress of batch jobs."),
    "cancel": ("job_commands", "Cancel the batch jobs of a run; keep their answers."),
    "runs": ("runs", "List, show and remove runs."),
    "config": ("config", "Check and show the configuration file."),
    "quotas": ("quotas", "Show configured, learned and effective limits."),
    "simulate": ("simulate", "Start a simulated provider with rate limits."),
}


class _LazyGroup(CommandGroup):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        with Postponed():
            module = importlib.import_module(f"llmflow.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all answered, 1 some failed, 2 wrong usage, configuration or input, "
    "3 stopped by the provider or the budget (run again to continue), 130 interrupted (129 by "
    "SIGHUP, 143 by SIGTERM), 141 the output pipe was closed.",
)
@click.version_option(llmflow.__version__, prog_name="llmflow")
def cli() -> None:
    """Run many texts through hosted LLMs, as fast as limits allow."""
    raise_connection_limit()


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line, and end the process with its exit code."""
    try:
        with terminable():
            result: Any = cli.main(args=arguments, prog_name="llmflow", standalone_mode=False)
    except LLMFlowError as error:
        _tell(error)
        result = 2
    except BareCommandError as error:
        write(sys.stderr, error.help)
        result = 2
    except click.UsageError as error:
        result = _explain(error)
    except click.ClickException as error:
        complain(error.format_message())
        result = 2
    except OSError as error:
        complain(system_error(error))
        result = 2
    except (click.Abort, KeyboardInterrupt):
        say("llmflow: interrupted; nothing was written")
        result = exit_code()
        # An interrupt inside exec(), such as a dataclass being made, is remembered by CPython:
        # `python -m llmflow` would die of SIGINT at its exit. Evaluating anything forgets it.
        exec("")  # noqa: S102
    code = result if isinstance(result, int) else 0
    if arguments is None:  # else this is a part of another program, which goes on
        exit_at_next_signal(code)
    sys.exit(code)


def _tell(error: LLMFlowError) -> None:
    """Print an error; each problem of a configuration file in a line."""
    text = "; ".join([str(error), *getattr(error, "__notes__", ())])
    first, *more = text.split("\n- ") if isinstance(error, ConfigurationError) else [text]
    complain(first)
    for problem in more:
        say(f"- {printable(problem)}")


def _explain(error: click.UsageError) -> int:
    """Print a usage error in one line, with the command's help."""
    place = error.ctx.command_path if error.ctx is not None else "llmflow"
    text = usage_message(error)
    complain(f"{text} See {place} --help" if text.endswith("?") else f"{text}; see {place} --help")
    return 2
