"""Whether OpenTelemetry is used by itself, and what that costs where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmflow

pytestmark = pytest.mark.process

# Where this very package comes from, in whichever way it is installed here.
HERE = Path(llmflow.__file__).parent.parent
SETTLED = "from llmflow import telemetry; telemetry.auto(); from llmflow.events import listening; "
WITH_SDK = "import opentelemetry.sdk.trace; " + SETTLED


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PATH": "", "PYTHONPATH": f"{HERE}:{HERE / 'providers'}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + done.stderr.strip()


def test_a_program_with_the_sdk_is_instrumented_by_itself() -> None:
    assert run(WITH_SDK + "print(listening())") == "True"


def test_a_program_without_the_sdk_does_not_even_import_the_api() -> None:
    code = SETTLED + "import sys; print(listening(), any('opentele' in m for m in sys.modules))"
    assert run(code) == "False False"


def test_an_sdk_that_is_imported_later_is_found_later() -> None:
    code = SETTLED + "import opentelemetry.sdk; telemetry.auto(); print(listening())"
    assert run(code) == "True"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LLMFLOW_OTEL", "off"), ("LLMFLOW_OTEL", " OFF "), ("OTEL_SDK_DISABLED", "true")],
)
def test_the_environment_may_forbid_it(variable: str, value: str) -> None:
    assert run(WITH_SDK + "print(listening())", **{variable: value}) == "False"


def test_what_was_said_explicitly_is_not_overruled() -> None:
    code = "import opentelemetry.sdk; from llmflow import telemetry; telemetry.uninstrument(); "
    assert run(code + SETTLED + "print(listening())") == "False"


def test_it_is_done_once() -> None:
    code = (
        WITH_SDK + "first = telemetry._bridge; telemetry.auto(); print(first is telemetry._bridge)"
    )
    assert run(code) == "True"


def test_without_the_api_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from llmflow import telemetry
from llmflow.errors import MissingExtraError
try:
    telemetry.instrument()
except MissingExtraError as error:
    print(error)
"""
    assert "llmflow[otel]" in run(code)


def test_a_version_that_does_not_fit_refuses_no_llm() -> None:
    code = """
import opentelemetry.sdk, opentelemetry.trace
del opentelemetry.trace.SpanKind
from llmflow import telemetry
telemetry.auto()
print("went on")
"""
    said = run(code)
    assert said.startswith("went on")
    assert "OpenTelemetry is not used" in said


def test_looking_for_the_sdk_costs_less_than_a_microsecond() -> None:
    code = "import timeit; " + SETTLED + "print(min(timeit.repeat(telemetry.auto, number=10000)))"
    assert float(run(code)) / 10_000 < 1e-6
