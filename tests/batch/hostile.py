"""A server with both batch APIs, whose results are whatever a test writes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

DIALECTS = ("openai", "anthropic")


@dataclass
class Served:
    """The reply with a file of results.

    Args:
        body: its bytes, or pieces of them for which no length is said.
        headers: further headers.
    """

    body: bytes | Iterable[bytes]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HostileJob:
    """A job: it has ended when it is made.

    Args:
        number: from 1.
        dialect: ``openai`` or ``anthropic``.
        rows: names and prompts.
        fetches: how often its results were asked for.
    """

    number: int
    dialect: str
    rows: list[tuple[str, str]]
    fetches: int = 0

    @property
    def lines(self) -> list[bytes]:
        """The results as they should be, each with its line break."""
        return [line_of(self.dialect, name, f"re: {text}") for name, text in self.rows]


Results = Callable[[HostileJob], "Served | bytes"]


def line_of(dialect: str, name: str, text: str, status: int = 200) -> bytes:
    """Return the line of an answer, with a number that is of no use."""
    if dialect == "anthropic":
        usage: dict[str, Any] = {"input_tokens": 8, "output_tokens": 2}
        content = [{"type": "text", "text": text}]
        message = {"id": "m", "content": content, "stop_reason": "end_turn", "usage": usage}
        result = {"type": "succeeded", "message": {**message, "x": 0.5}}
        return orjson.dumps({"custom_id": name, "result": result}) + b"\n"
    usage = {"prompt_tokens": 8, "completion_tokens": 2}
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    body = {"id": "c", "choices": [choice], "usage": usage, "x": 0.5}
    response = {"status_code": status, "request_id": "req", "body": body}
    return orjson.dumps({"custom_id": name, "response": response, "error": None}) + b"\n"


class HostileServer:
    """What the server has been asked, and how it answers.

    Args:
        results: returns a job's file of answers.
        errors: returns its file of errors, where the dialect has one; None: there is none.
        counts: how many rows it says to be answered and failed; None: all are answered.
    """

    def __init__(
        self,
        results: Results,
        *,
        errors: Results | None = None,
        counts: Callable[[HostileJob], tuple[int, int] | None] | None = None,
    ) -> None:
        self.results = results
        self.errors = errors
        self.counts = counts or (lambda job: (len(job.rows), 0))
        self.jobs: list[HostileJob] = []
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.live = 0
        self.url = ""
        self._lock = threading.Lock()

    @property
    def sizes(self) -> list[int]:
        """How many rows each job has."""
        return [len(job.rows) for job in self.jobs]

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return a status, and the JSON or the file of a reply."""
        with self._lock:
            parts = path.partition("?")[0].removeprefix("/v1/").split("/")
            if parts[0] == "files":
                return self._files(method, parts, body)
            if parts[:2] == ["messages", "batches"]:
                return self._batches(method, parts[2:], body, "anthropic")
            if parts[0] == "batches":
                return self._batches(method, parts[1:], body, "openai")
            self.live += 1
            return 404, {"error": {"message": "no such path"}}

    def _files(self, method: str, parts: list[str], body: bytes) -> tuple[int, Any]:
        if method == "POST":
            name = f"file-{len(self.files)}"
            self.files[name] = body
            return 200, {"id": name}
        if method == "DELETE":
            self.deleted.append(parts[1])
            return 200, {"id": parts[1], "deleted": True}
        kind, _, number = parts[1].partition("-")
        job = self.jobs[int(number) - 1]
        made = self.results if kind == "out" else self.errors
        assert made is not None
        if kind == "out":
            job.fetches += 1
        return 200, _served(made(job))

    def _batches(self, method: str, parts: list[str], body: bytes, dialect: str) -> tuple[int, Any]:
        if method == "POST" and not parts:
            rows = self._rows(body, dialect)
            self.jobs.append(HostileJob(len(self.jobs) + 1, dialect, rows))
            return 200, self._shown(self.jobs[-1])
        if not parts:
            return 200, {"data": [], "has_more": False}
        job = self.jobs[int(parts[0].rpartition("-")[2]) - 1]
        if parts[1:] == ["results"]:
            job.fetches += 1
            return 200, _served(self.results(job))
        return 200, self._shown(job)

    def _rows(self, body: bytes, dialect: str) -> list[tuple[str, str]]:
        if dialect == "anthropic":
            given = orjson.loads(body)["requests"]
            return [(row["custom_id"], _prompt(row["params"])) for row in given]
        form = self.files[orjson.loads(body)["input_file_id"]]
        rows = form.split(b"\r\n\r\n")[2].split(b"\r\n")[0].split(b"\n")
        given = [orjson.loads(row) for row in rows]
        return [(row["custom_id"], _prompt(row["body"])) for row in given]

    def _shown(self, job: HostileJob) -> dict[str, Any]:
        counts = self.counts(job)
        if job.dialect == "anthropic":
            shown: dict[str, Any] = {
                "id": f"msgbatch-{job.number}",
                "processing_status": "ended",
                "results_url": f"{self.url}/v1/messages/batches/msgbatch-{job.number}/results",
                "created_at": "2026-11-29T00:00:00Z",
            }
            if counts is not None:
                shown["request_counts"] = {"succeeded": counts[0], "errored": counts[1]}
            return shown
        shown = {
            "id": f"batch-{job.number}",
            "status": "completed",
            "output_file_id": f"out-{job.number}",
            "error_file_id": None if self.errors is None else f"err-{job.number}",
        }
        if counts is not None:
            shown["request_counts"] = {
                "total": len(job.rows),
                "completed": counts[0],
                "failed": counts[1],
            }
        return shown


def _served(given: Served | bytes) -> Served:
    return Served(given) if isinstance(given, bytes) else given


def _prompt(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


@contextlib.contextmanager
def served(server: HostileServer) -> Iterator[HostileServer]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def do_GET(self) -> None:
            body = b""
            if "chunked" in self.headers.get("transfer-encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, said = server.reply(self.command, self.path, body)
            if not isinstance(said, Served):
                said = Served(orjson.dumps(said), {"content-type": "application/json"})
            self.send_response(status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if isinstance(said.body, bytes):
                self.send_header("content-length", str(len(said.body)))
                self.end_headers()
                self.wfile.write(said.body)
                return
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            for piece in said.body:
                self.wfile.write(piece)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
