"""The batch part of `llmflow.provider`, under its former name."""

from llmflow.provider import (
    ENDED,
    BatchAPI,
    BatchInput,
    BatchLimits,
    BatchProblem,
    BatchRow,
    BatchState,
    BatchStatus,
    Channel,
    FileBounds,
    Upload,
)

__all__ = [
    "ENDED",
    "BatchAPI",
    "BatchInput",
    "BatchLimits",
    "BatchProblem",
    "BatchRow",
    "BatchState",
    "BatchStatus",
    "Channel",
    "FileBounds",
    "Upload",
]
