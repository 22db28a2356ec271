"""``python -m llmflow.simulator``: serve until interrupted."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys

from llmflow.errors import ConfigurationError
from llmflow.simulator.exchange import import_shapes
from llmflow.simulator.hosting import raise_limit_of_descriptors, run_simulator
from llmflow.simulator.settings import SimulatorSettings


def main(arguments: list[str] | None = None) -> int:
    """Serve with the command line's settings, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m llmflow.simulator",
        description="A local LLM provider with a real quota, in OpenAI's dialect and Anthropic's.",
    )
    parser.add_argument(
        "--settings-json",
        metavar="JSON",
        default="{}",
        help="settings as a JSON object; '-' reads a line of them from standard input, "
        "and stops when that ends",
    )
    parser.add_argument("--cpu", type=int, metavar="N", help="run on this processor alone")
    options = parser.parse_args(arguments)
    from_parent = options.settings_json == "-"
    try:
        text = sys.stdin.readline() if from_parent else options.settings_json
        settings = SimulatorSettings.from_json(text)
        if options.cpu is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {options.cpu})
        raise_limit_of_descriptors()
        run_simulator(settings, on_ready=_announce, until_stdin_ends=from_parent)
    except (ConfigurationError, OSError) as error:
        if from_parent:
            _say({"error": str(error)})
        else:
            sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _announce(url: str) -> None:
    _say({"url": url})
    # While the first client connects. What was imported is no garbage: spare it the scans.
    for module in ("openai.chat_shapes", "anthropic.message_shapes"):
        import_shapes(module)
    gc.freeze()


def _say(message: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
