"""A local LLM provider with a real quota, needing no key.

It speaks OpenAI's chat dialect and Anthropic's over HTTP, with the headers,
errors, limits and bad days of the real providers. Nothing of it is shared with llmflow's own
limiter and client: independent clients get the same answers.

Public: import from here, not from the modules below.
"""

from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches.store import BatchCounts
from llmflow.simulator.engine import Engine, Reply
from llmflow.simulator.faults import Faults, Latency
from llmflow.simulator.hosting import (
    SimulatorProcess,
    SimulatorThread,
    run_simulator,
    serve_in_process,
    serve_in_thread,
)
from llmflow.simulator.server import Simulator
from llmflow.simulator.settings import SimulatorSettings
from llmflow.simulator.stats import Admission, Admissions, SimulatorStats, Timeline

__all__ = [
    "Admission",
    "Admissions",
    "BatchCounts",
    "BatchSettings",
    "Engine",
    "Faults",
    "Latency",
    "Reply",
    "Simulator",
    "SimulatorProcess",
    "SimulatorSettings",
    "SimulatorStats",
    "SimulatorThread",
    "Timeline",
    "run_simulator",
    "serve_in_process",
    "serve_in_thread",
]
