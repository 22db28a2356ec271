"""OpenAI's files: ``/v1/files``."""

from __future__ import annotations

from typing import Any

from llmflow.simulator.batches.multipart import FormError, Part, boundary_of, read_form
from llmflow.simulator.batches.openai_speaker import KEPT_SECONDS
from llmflow.simulator.batches.reply import BatchReply, BatchRequest, FilePart, say
from llmflow.simulator.batches.settings import BatchSettings
from llmflow.simulator.batches.store import FileRecord, Store
from llmflow.simulator.openai_errors import OpenAIError

_MOST_LISTED = 10_000
_FIELD_BYTES = 1024


class OpenAIFiles:
    """Takes, lists, gives and deletes files.

    Args:
        store: where they are.
        settings: which uploads are not answered.

    """

    def __init__(self, store: Store, settings: BatchSettings) -> None:
        self._store = store
        self._settings = settings

    def receive(self, request: BatchRequest) -> BatchReply:
        """Answer a request, or raise the `OpenAIError` that answers it."""
        match request.method, request.parts[1:]:
            case "POST", []:
                return self._upload(request)
            case "GET", []:
                return self._list(request)
            case "GET", [ident]:
                return say(_shown(self.find(ident, request)))
            case "DELETE", [ident]:
                file = self.find(ident, request)
                self._store.remove_file(file)
                return say({"id": file.id, "object": "file", "deleted": True})
            case "GET", [ident, "content"]:
                file = self.find(ident, request)
                part = FilePart(self._store.data(file.path), file.start, file.size)
                return BatchReply(file=part, kind="application/octet-stream")
        raise OpenAIError(404, f"Invalid URL ({request.method} {request.target.split('?')[0]})")

    def find(self, ident: str, request: BatchRequest) -> FileRecord:
        """Return a file of the customer, or raise a 404."""
        file = self._store.files.get(ident)
        if file is None or file.owner != request.owner or _expired(file, request.now):
            raise OpenAIError(404, f"No such File object: {ident}", param="id")
        return file

    def _upload(self, request: BatchRequest) -> BatchReply:
        path = request.upload
        if path is None:
            raise OpenAIError(400, "'file' is a required property")
        try:
            form = read_form(path, boundary_of(request.headers))
        except FormError as error:
            raise OpenAIError(400, f"Could not parse multipart form: {error}") from None
        fields = {name: _text(path, part) for name, part in form.items() if name != "file"}
        content = form.get("file")
        if content is None or content.filename is None:
            raise OpenAIError(400, "'file' is a required property")
        if fields.get("purpose") != "batch":
            given = fields.get("purpose")
            raise OpenAIError(
                400,
                "'purpose' is a required property"
                if given is None
                else f"'{given}' is not one of ['batch'] - 'purpose'",
            )
        expires = request.now + _kept(fields)
        ordinal, ident = self._store.next("file")
        uploads, _ = self._store.next("upload")
        # The form stays as it came: a file is a part of it.
        name = f"file-{ident}"
        path.replace(self._store.data(name))
        file = FileRecord(
            id=name,
            ordinal=ordinal,
            owner=request.owner,
            filename=content.filename,
            purpose="batch",
            path=name,
            start=content.start,
            size=content.size,
            created=request.now,
            expires=expires,
        )
        self._store.save(file)
        return say(_shown(file), lost=uploads in self._settings.lost_uploads)

    def _list(self, request: BatchRequest) -> BatchReply:
        query = request.query
        files = [
            file
            for file in self._store.files.values()
            if file.owner == request.owner
            and not _expired(file, request.now)
            and query.get("purpose", file.purpose) == file.purpose
        ]
        files.sort(key=lambda file: file.ordinal, reverse=query.get("order") != "asc")
        shown = [_shown(file) for file in files]
        return say(page(shown, query, after="after", most=_MOST_LISTED, usual=_MOST_LISTED))


def page(
    items: list[dict[str, Any]], query: dict[str, str], *, after: str, most: int, usual: int
) -> dict[str, Any]:
    """Return a page of a list, as OpenAI's lists are.

    Raises:
        OpenAIError: the limit is wrong.

    """
    text = query.get("limit", str(usual))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise OpenAIError(400, f"Invalid 'limit': expected 1 to {most}, got {text}.", param="limit")
    if after in query:
        places = [n for n, item in enumerate(items) if item["id"] == query[after]]
        items = items[places[0] + 1 :] if places else []
    shown = items[: int(text)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }


def _text(path: Any, part: Part) -> str:
    with path.open("rb") as file:
        file.seek(part.start)
        raw: bytes = file.read(min(part.size, _FIELD_BYTES))
    return raw.decode("utf-8", "replace")


def _kept(fields: dict[str, str]) -> float:
    text = fields.get("expires_after[seconds]")
    if text is None:
        return KEPT_SECONDS
    if not text.isdecimal() or not 3600 <= int(text) <= 2_592_000:
        raise OpenAIError(
            400,
            "Invalid 'expires_after.seconds': expected 3600 to 2592000.",
            param="expires_after.seconds",
        )
    return float(text)


def _expired(file: FileRecord, now: float) -> bool:
    return file.expires is not None and file.expires <= now


def _shown(file: FileRecord) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
