"""The simulator's batch APIs without sockets, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from llmflow.private_files import private
from llmflow.simulator import SimulatorSettings
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches.api import BatchReply
from llmflow.simulator.batches.service import Batches
from llmflow.simulator.batches.store import BatchCounts

START = 1_800_000_000.0
_FORM = (
    b'--bnd\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--bnd\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    b"%b\r\n--bnd--\r\n"
)
_CHAT = "/v1/chat/completions"
_MESSAGES = "/v1/messages/batches"


class Said(NamedTuple):
    """A status and what came with it."""

    status: int
    data: Any
    lost: bool = False


class Counts(NamedTuple):
    """The counts of a job in one form."""

    open: int
    succeeded: int
    failed: int


class Provider:
    """A provider at a moment of time, in seconds since its start.

    Args:
        state: its folder; None: a temporary one.
        at: the moment at which it is started.
        invalid: its `invalid_answer_rate`.
        batch: what its batch APIs are set to.

    """

    def __init__(
        self, *, state: Path | None = None, at: float = 0.0, invalid: float = 0.0, **batch: Any
    ) -> None:
        folder = None if state is None else str(state)
        self.at = at
        settings = BatchSettings(state=folder, **batch)
        self.batches = Batches(SimulatorSettings(batch=settings, invalid_answer_rate=invalid))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.batches.close()

    def until(self, moment: float) -> None:
        """Let the time pass, with every step done when it is due."""
        while (due := self.batches.advance(START + self.at)) is not None:
            if due - START > moment:
                break
            self.at = max(self.at, due - START)
        self.at = moment
        self.jump(moment)

    def jump(self, moment: float) -> None:
        """Come to a moment at which all that was due before is late."""
        self.at = moment
        due = self.batches.advance(START + moment)
        while due is not None and due <= START + moment:
            due = self.batches.advance(START + moment)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        upload: bool = False,
        key: str = "sk-right",
        later: Callable[[BatchReply], object] | None = None,
    ) -> Said:
        """Return the answer to a request; without `later`, all of its steps are done."""
        path = None
        if upload:
            path = self.batches.store.scratch()
            with open(path, "wb", opener=private) as file:  # as `Spool` makes it
                file.write(body)
        answers: list[BatchReply] = []
        reply = self.batches.receive(
            method,
            target,
            headers={
                "authorization": f"Bearer {key}",
                "x-api-key": key,
                "anthropic-version": "2023-06-01",
                "content-type": "multipart/form-data; boundary=bnd",
            },
            body=b"" if upload else body,
            upload=path,
            now=START + self.at,
            later=later or answers.append,
        )
        if reply is None and later is not None:
            return Said(0, None)
        while reply is None:
            self.batches.advance(START + self.at)
            reply = answers.pop() if answers else None
        return said(reply)

    def counts(self) -> BatchCounts:
        """Return what was counted."""
        return self.batches.counts()

    def upload(self, *rows: dict[str, Any], key: str = "sk-right") -> Said:
        """Upload a file of OpenAI's rows."""
        lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        return self.ask("POST", "/v1/files", _FORM % lines, upload=True, key=key)


def said(reply: BatchReply) -> Said:
    """Return what an answer says: JSON, or the lines of a file."""
    if reply.file is not None:
        path, start, size = reply.file
        lines = path.read_bytes()[start : start + size].splitlines()
        return Said(reply.status, [orjson.loads(line) for line in lines])
    data = orjson.loads(reply.body) if reply.body else []
    return Said(reply.status, data, reply.lost)


class OpenAI:
    """OpenAI's jobs of a provider, in the form that the tests share."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    @staticmethod
    def row(number: int, model: str = "model-x", **body: Any) -> dict[str, Any]:
        """Return a row."""
        asked = {"model": model, "messages": [{"role": "user", "content": f"Item {number}."}]}
        return {
            "custom_id": f"r-{number}",
            "method": "POST",
            "url": _CHAT,
            "body": {**asked, **body},
        }

    def try_create(self, count: int, *, key: str = "sk-right", **body: Any) -> Said:
        """Return the answer to a creation."""
        rows = [self.row(n, **body) for n in range(count)]
        file = self.provider.upload(*rows, key=key).data["id"]
        asked = {"input_file_id": file, "endpoint": _CHAT, "completion_window": "24h"}
        return self.provider.ask("POST", "/v1/batches", orjson.dumps(asked), key=key)

    def create(self, count: int, **more: Any) -> str:
        """Return the identifier of a new job."""
        answer = self.try_create(count, **more)
        assert answer.status == 200
        return str(answer.data["id"])

    def job(self, ident: str) -> dict[str, Any]:
        """Return what is shown of a job."""
        data: dict[str, Any] = self.provider.ask("GET", f"/v1/batches/{ident}").data
        return data

    def jobs(self) -> list[str]:
        """Return all jobs."""
        return [job["id"] for job in self.provider.ask("GET", "/v1/batches").data["data"]]

    def status(self, ident: str) -> str:
        """Return the state of a job by its dialect."""
        return str(self.job(ident)["status"])

    def counted(self, ident: str) -> Counts:
        """Return the counts of a job."""
        counts = self.job(ident)["request_counts"]
        done = counts["completed"], counts["failed"]
        return Counts(counts["total"] - sum(done), *done)

    def cancel(self, ident: str) -> Said:
        """Ask for a job's end."""
        return self.provider.ask("POST", f"/v1/batches/{ident}/cancel")

    def results(self, ident: str) -> dict[str, str]:
        """Return what became of each row: ``succeeded``, or a reason."""
        job, kinds = self.job(ident), {}
        for name in ("output_file_id", "error_file_id"):
            for line in self.content(job[name]):
                kind = "succeeded" if line["error"] is None else line["error"]["code"]
                assert (kind == "succeeded") == (name == "output_file_id")
                assert line["custom_id"] not in kinds
                kinds[line["custom_id"]] = kind.removeprefix("batch_")
        return kinds

    def content(self, file: str | None) -> list[dict[str, Any]]:
        """Return the lines of a file."""
        if file is None:
            return []
        answer = self.provider.ask("GET", f"/v1/files/{file}/content")
        assert answer.status == 200
        lines: list[dict[str, Any]] = answer.data
        return lines


class Anthropic:
    """Anthropic's jobs of a provider, in the form that the tests share."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    @staticmethod
    def row(number: int, **params: Any) -> dict[str, Any]:
        """Return a row."""
        asked = {
            "model": "model-x",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"Item {number}."}],
        }
        return {"custom_id": f"r-{number}", "params": {**asked, **params}}

    @staticmethod
    def body(count: int, **params: Any) -> bytes:
        """Return the body of a creation."""
        return orjson.dumps({"requests": [Anthropic.row(n, **params) for n in range(count)]})

    def try_create(self, count: int, *, key: str = "sk-right", **params: Any) -> Said:
        """Return the answer to a creation."""
        body = self.body(count, **params)
        return self.provider.ask("POST", _MESSAGES, body, upload=True, key=key)

    def create(self, count: int, **more: Any) -> str:
        """Return the identifier of a new job."""
        answer = self.try_create(count, **more)
        assert answer.status == 200
        return str(answer.data["id"])

    def job(self, ident: str) -> dict[str, Any]:
        """Return what is shown of a job."""
        data: dict[str, Any] = self.provider.ask("GET", f"{_MESSAGES}/{ident}").data
        return data

    def jobs(self) -> list[str]:
        """Return all jobs."""
        return [job["id"] for job in self.provider.ask("GET", _MESSAGES).data["data"]]

    def status(self, ident: str) -> str:
        """Return the state of a job by its dialect."""
        return str(self.job(ident)["processing_status"])

    def counted(self, ident: str) -> Counts:
        """Return the counts of a job."""
        counts = self.job(ident)["request_counts"]
        failed = sum(counts[kind] for kind in ("errored", "canceled", "expired"))
        return Counts(counts["processing"], counts["succeeded"], failed)

    def cancel(self, ident: str) -> Said:
        """Ask for a job's end."""
        return self.provider.ask("POST", f"{_MESSAGES}/{ident}/cancel")

    def results(self, ident: str) -> dict[str, str]:
        """Return what became of each row: ``succeeded``, or a reason."""
        answer, kinds = self.provider.ask("GET", f"{_MESSAGES}/{ident}/results"), {}
        assert answer.status == 200
        for line in answer.data:
            assert line["custom_id"] not in kinds
            kinds[line["custom_id"]] = line["result"]["type"].replace("canceled", "cancelled")
        return kinds


Dialect = type[OpenAI] | type[Anthropic]
