"""Anthropic's rules for the rows of a batch: each fails by itself, and none fails the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmflow.simulator.answer import answer
from llmflow.simulator.anthropic_cache import PromptCache
from llmflow.simulator.anthropic_errors import BROKEN, AnthropicError
from llmflow.simulator.anthropic_reply import message
from llmflow.simulator.anthropic_request import MessagesRequest, read_messages
from llmflow.simulator.batches.ledger import digest
from llmflow.simulator.batches.speaker import Ending, LineError, Row
from llmflow.simulator.batches.store import JobRecord
from llmflow.simulator.settings import SimulatorSettings

_UNDONE: dict[Ending, str] = {"expired": "expired", "cancelled": "canceled"}
_REFUSED = AnthropicError(400, "The request was refused by the simulator.")


class AnthropicSpeaker:
    """The rules of Anthropic's batches.

    Args:
        settings: what the provider is set to.

    """

    forgets_cancelled = False
    finalizes = False

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._cache = PromptCache()
        failed = settings.batch.row_error == "server_error"
        self._failure: AnthropicError = BROKEN["server_error"] if failed else _REFUSED

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Find nothing wrong: the rows were looked at when the job was created."""
        del job, line, seen
        return 0

    def answer(self, job: JobRecord, line: bytes, *, ident: str, fails: bool, now: float) -> Row:
        """Return what the same request would get live, or an error that is not its own.

        What the prompt cache held when the job began is read from it. Rows of one job have
        nothing of each other: they are worked on at the same time.
        """
        row = orjson.loads(line)
        try:
            if fails:
                raise self._failure
            call = self._read(job, row["params"], caching=b'"cache_control"' in line)
        except AnthropicError as error:
            # The error of a row belongs to no request.
            body = orjson.Fragment(error.body(""))
            return Row("output", _line(row, {"type": "errored", "error": body}), "errored")
        if call.marks:
            call.cached = self._cache.read(call.marks, now=now, before=job.started)
            self._cache.write(call.marks, now=now)
        said = answer(call, style=self._settings.answer)
        body = orjson.Fragment(message(call, said, ident=ident, tier="batch"))
        return Row(
            "output",
            _line(row, {"type": "succeeded", "message": body}),
            "succeeded",
            input_tokens=call.prompt_tokens,
            output_tokens=said.tokens,
            custom_id=row["custom_id"],
            body=digest(row["params"]),
        )

    def unanswered(self, line: bytes, *, ident: str, why: Ending) -> Row:
        """Return what a row ends with that was not done."""
        del ident
        return Row("output", _line(orjson.loads(line), {"type": _UNDONE[why]}), why)

    def queue_error(self, job: JobRecord, *, others: int) -> LineError | None:
        """Find room: a full queue has refused the job's creation."""
        del job, others
        return None

    def publish(
        self, job: JobRecord, file: Literal["output", "error"], size: int, now: float
    ) -> str:
        """Return the name of the results' data."""
        del file, size, now
        return f"{job.id}.results"

    def _read(self, job: JobRecord, params: Mapping[str, Any], *, caching: bool) -> MessagesRequest:
        """Read a request, with what is allowed live only taken as wrong."""
        if params.get("stream"):
            raise AnthropicError(400, "stream: Streaming is not supported in batches")
        if "speed" in params:
            raise AnthropicError(400, "speed: Extra inputs are not permitted")
        call = read_messages(
            params, self._settings, caching=caching, version=job.version, beta=job.beta
        )
        if not call.max_tokens:
            raise AnthropicError(400, "max_tokens: Input should be greater than or equal to 1")
        return call


def _line(row: Mapping[str, Any], result: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": row["custom_id"], "result": result}) + b"\n"
