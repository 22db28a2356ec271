"""Events in the standard log, and what structlog makes of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from llmflow.errors import AuthenticationError, ConfigurationError, RateLimitError
from llmflow.events import RequestFailed, RequestRejected
from llmflow.telemetry import log_events
from llmflow.testing import ScriptedProvider
from tests.observing import SECRET_ANSWER, SECRET_PROMPT, Asker

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The log as structlog's formatter writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logger = logging.getLogger("llmflow")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_each_event_is_one_line_with_its_facts_as_fields(written: io.StringIO) -> None:
    limit = RateLimitError("slow down", retry_after=2.0, dimension="tpm")
    with log_events(kinds=[RequestRejected, RequestFailed]):
        asker = Asker(ScriptedProvider([limit, AuthenticationError("no such\nkey", status=401)]))
        with pytest.raises(AuthenticationError):
            await asker.ask(run_id="mine")
    lines = [json.loads(each) for each in written.getvalue().splitlines()]
    rejected, failed = [each for each in lines if "kind" in each]
    assert rejected["kind"] == "request_rejected"
    assert rejected["event"].startswith("request rejected run_id=mine call_id=")
    assert (rejected["dimension"], rejected["retry_after"]) == ("tpm", 2.0)
    assert failed["error"] == "AuthenticationError"
    assert "no such key" in failed["event"]
    assert failed["level"] == "info"
    assert rejected["call_id"] == failed["call_id"]


async def test_no_text_gets_into_the_log(written: io.StringIO) -> None:
    with log_events():
        await Asker(ScriptedProvider([SECRET_ANSWER])).ask()
    assert len(written.getvalue().splitlines()) == 3
    assert SECRET_PROMPT not in written.getvalue()
    assert SECRET_ANSWER not in written.getvalue()


async def test_lines_below_the_loggers_level_are_not_written(written: io.StringIO) -> None:
    with log_events(logging.DEBUG):
        await Asker(ScriptedProvider()).ask()
    assert written.getvalue() == ""


async def test_nothing_is_logged_once_it_is_closed(written: io.StringIO) -> None:
    log_events().close()
    await Asker(ScriptedProvider()).ask()
    assert written.getvalue() == ""


def test_a_level_is_a_number() -> None:
    with pytest.raises(ConfigurationError, match=r"logging\.INFO"):
        log_events("INFO")  # type: ignore[arg-type]
