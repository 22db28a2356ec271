"""Run the tests with busy processes beside them: ``test_under_load.py [options] [pytest args]``.

A test that fails here and passes on a quiet machine measures the machine. The
whole takes at most ``--minutes``, and is not a part of CI.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_MINUTES = 40.0
TIMED_OUT = 124
_GRACE = 10.0
# It ends with the process that started it: no load is left behind, whatever ends this one.
_BUSY = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    sum(number * number for number in range(200_000))
"""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep processes busy as long as the context is open."""
    command = [sys.executable, "-c", _BUSY, str(os.getpid())]
    running = [subprocess.Popen(command) for _ in range(count)]  # noqa: S603 - our own
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(command: list[str], seconds: float) -> int:
    """Return a command's exit code; after `seconds` it is ended with all that it started."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)  # noqa: S603 - pytest
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all of its group: SIGINT first, so that it still reports."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.poll() is None:
                os.killpg(process.pid, number)
                process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what the tests left behind


def main(words: list[str]) -> int:
    """Run the suite once or several times; return the first exit code that is not 0."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description="Run the tests with busy processes beside them.",
        epilog="All other arguments go to pytest, as in: test_under_load.py tests/cli -n 2 -x",
    )
    parser.add_argument("--busy", type=int, default=2, help="busy processes (default: 2)")
    parser.add_argument("--times", type=int, default=1, help="runs, one by one (default: 1)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=MOST_MINUTES,
        help=f"time for all runs, at most {MOST_MINUTES:g} (the default)",
    )
    options, rest = parser.parse_known_args(words)
    if not 0 < options.minutes <= MOST_MINUTES or options.busy < 0 or options.times < 1:
        parser.error(f"--minutes is above 0 and at most {MOST_MINUTES:g}; counts are positive")
    command = [sys.executable, "-m", "pytest", "-q", *rest]
    end = time.monotonic() + 60.0 * options.minutes
    for number in (signal.SIGINT, signal.SIGHUP):
        # A shell's `&` and nohup have them ignored, and the tests' processes would inherit that.
        signal.signal(number, signal.default_int_handler)
    with busy(options.busy):
        for number in range(1, options.times + 1):
            began = time.monotonic()
            code = run(command, max(0.0, end - began))
            ended = f"after {time.monotonic() - began:.0f} s"
            if code == TIMED_OUT:
                print(f"run {number}: not done in {options.minutes:g} minutes", file=sys.stderr)
            elif code:
                print(f"run {number}: pytest exited with {code} {ended}", file=sys.stderr)
            else:
                print(f"run {number} of {options.times}: green {ended}")
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
