"""A third dialect on the simulator's protocol, as somebody who adds a provider writes it.

It has what a dialect must have: answers, streams, strict checks, errors, quota headers, batch jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from llmflow.private_files import private
from llmflow.simulator.answer import count_tokens
from llmflow.simulator.batches.api import BatchAPI, BatchReply, BatchRequest, RowKind
from llmflow.simulator.batches.store import JobRecord
from llmflow.simulator.dialect import Dialect
from llmflow.simulator.exchange import Answer, Call, DialectError, load_object
from llmflow.simulator.quota import Charge, Decision
from llmflow.simulator.settings import SimulatorSettings


class CompletionsError(DialectError):
    forms: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "server_error": (500, "failed"),
        "overloaded": (503, "busy"),
        "invalid_request": (400, "refused"),
        "no_key": (401, "no key"),
        "wrong_key": (401, "wrong key"),
        "model": (404, "no model {name}"),
        "path": (404, "no such path"),
        "method": (405, "{allowed} only"),
        "job": (404, "no job {ident}"),
        "limit": (422, "limit: 1 to {most}, not {limit}", {"kind": "validation"}),
        "cancel": (409, "{id} has ended"),
    }

    def body(self, ident: str) -> bytes:
        return orjson.dumps({"detail": str(self), "type": self.kind, "request": ident})


# --- requests


def check_shape(body: object) -> None:
    from pydantic_core import SchemaValidator
    from pydantic_core import core_schema as core

    from llmflow.simulator.shapes import FLAG, TEXT, first_errors, place, table

    tokens = core.int_schema(ge=1)
    shape = table({"model": TEXT, "prompt": TEXT}, {"max_tokens": tokens, "stream": FLAG})
    for error in first_errors(SchemaValidator(shape), body):
        where = "/".join(map(str, place(error)))
        raise CompletionsError(422, f"{where}: {error['msg']}", kind="validation")


def read(body: Mapping[str, Any] | None, settings: SimulatorSettings) -> Call:
    check_shape(body)
    assert body is not None
    if settings.models and body["model"] not in settings.models:
        raise CompletionsError.of("model", name=body["model"])
    tokens, most = count_tokens(body["prompt"]), body.get("max_tokens", 16)
    return Call(
        model=body["model"],
        prompt=body["prompt"],
        prompt_tokens=tokens,
        max_tokens=most,
        stream=body.get("stream", False),
        form=None,
        charge=Charge(tokens + most, tokens, most),
    )


# --- answers


def whole(call: Call, said: Answer, *, ident: str, created: int) -> bytes:
    return orjson.dumps(
        {
            "id": f"cmpl-{ident}",
            "created": created,
            "text": said.text,
            "finish_reason": "length" if said.cut else "stop",
            "usage": {"prompt": call.prompt_tokens, "completion": said.tokens},
        }
    )


def events(call: Call, said: Answer, *, ident: str, created: int) -> list[bytes]:
    parts = [b"data: %b\n\n" % orjson.dumps({"text": piece}) for piece in said.pieces()]
    return [*parts, b"data: %b\n\n" % whole(call, said, ident=ident, created=created)]


# --- batch jobs


class CompletionsBatches(BatchAPI):
    paths = ("/jobs",)
    root = ("jobs",)
    prefix = "job_"
    most_rows = 1000
    most_bytes = 1_000_000
    error = CompletionsError
    page_sizes = (10, 100)
    whole = staticmethod(whole)

    def receive_other(self, request: BatchRequest) -> BatchReply:
        match request.method, request.parts:
            case "GET", ["jobs", ident, "results"]:
                job = self._find(ident, request)
                if job.output is None:
                    raise CompletionsError(404, "no results")
                return BatchReply(file=self._part(job.output))
        raise CompletionsError.of("path")

    def create(self, request: BatchRequest) -> BatchReply:
        rows = (load_object(request.body) or {}).get("rows")
        if not isinstance(rows, list) or not 1 <= len(rows) <= self._most_rows:
            raise CompletionsError(422, "rows: a list is required", kind="validation")
        job = self._new_job(
            request,
            endpoint="/v1/completions",
            input="",
            phase="running",
            started=request.now,
            total=len(rows),
        )
        job.input = f"{job.id}.rows"
        with open(self._store.data(job.input), "wb", opener=private) as file:
            file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return self._created(job, request)

    def shown(self, job: JobRecord, request: BatchRequest) -> dict[str, Any]:
        state = job.outcome or ("cancelling" if job.cancel_asked else "running")
        return {"id": job.id, "state": state, "total": job.total, "counts": job.counts}

    def orphan(self, job: JobRecord) -> None:
        job.outcome = "failed"

    def read(self, job: JobRecord, body: Any, line: bytes, *, now: float) -> Call:
        return read(body, self._settings)

    def result(self, row: Any, kind: RowKind, *, body: Any = None, **_: Any) -> dict[str, Any]:
        return {"custom_id": row["custom_id"], "kind": kind, "body": body}


class CompletionsDialect(Dialect):
    path = "/completions"
    error = CompletionsError
    batch_api = CompletionsBatches
    cut_body = b'{"id":"cmpl-0","text":'
    header_lines = "request: {ident}\r\n"
    quota_names = "quota-{unit}-{what}"
    whole = staticmethod(whole)
    events = staticmethod(events)

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> Call:
        return read(load_object(body), self._settings)

    def shown_reset(self, seconds: float, *, now: float) -> str:
        return f"{seconds:.3f}"

    def shown_model(self, name: str, created: int) -> dict[str, Any]:
        return {"name": name}

    def model_list(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        return {"models": models}

    def rejection(self, decision: Decision, call: Any, *, now: float) -> CompletionsError:
        return CompletionsError(429, f"over {decision.reason}", kind="quota")
