"""Write docs/cli.md from the commands' own help: ``make_cli_docs.py [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from llmflow.cli.main import cli

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100

_HEAD = """\
# The command line

Made by `scripts/make_cli_docs.py` from the commands' own help; change it there.

The shell completes commands, options and names of runs. For bash, write into `~/.bashrc`:

```bash
eval "$(_LLMFLOW_COMPLETE=bash_source llmflow)"
```

For zsh it is `zsh_source`, in `~/.zshrc`; for fish, in `~/.config/fish/completions/llmflow.fish`:
`_LLMFLOW_COMPLETE=fish_source llmflow | source`.
"""


def pages() -> str:
    """Return the page: the help of the group and of each command."""
    return "\n".join([_HEAD, *_sections(cli, _context(cli, "llmflow"))])


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the section of a command, and those of the commands in it."""
    yield _section(context.command_path, command.get_help(context))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _sections(inner, _context(inner, name, context))


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    # make_context reads the command's own settings; nothing is parsed or run.
    return command.make_context(
        name,
        [],
        parent=parent,
        resilient_parsing=True,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
    )


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` return 1 if it is out of date."""
    text = pages()
    if "--check" not in arguments:
        PAGE.write_text(text, "utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == text:
        return 0
    print("docs/cli.md is out of date: run scripts/make_cli_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
