"""A simulator in a process of its own serves more connections than a shell allows files."""

from __future__ import annotations

import asyncio

import pytest

from llmflow.simulator import SimulatorSettings, serve_in_process
from tests.simulator.test_conditions import crowd

pytestmark = pytest.mark.process

resource = pytest.importorskip("resource")

FEW = 256
MANY = 600


def test_a_simulator_raises_its_own_limit_of_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2 * MANY:
        pytest.skip(f"the system allows {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        sim = serve_in_process(SimulatorSettings(latency=2.0))  # inherits the limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MANY), hard))
    try:
        with sim:
            assert asyncio.run(crowd(sim.url, MANY)) > FEW
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
