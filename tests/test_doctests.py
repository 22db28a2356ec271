"""The examples in docstrings are run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import llmflow
import llmflow_providers

SERVERS = ("llmflow.simulator.hosting", "llmflow.simulator.server")


def names(package: ModuleType) -> list[object]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    every = [package.__name__, *(each.name for each in found)]
    return [
        pytest.param(name, marks=pytest.mark.http) if name in SERVERS else name
        for name in every
        if not name.endswith("__main__")
    ]


@pytest.mark.parametrize("name", names(llmflow) + names(llmflow_providers))
def test_the_examples_of_a_module_are_true(name: str) -> None:
    if name == "llmflow.telemetry.otel":
        pytest.importorskip("opentelemetry")
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_the_examples_of_the_public_classes_are_found() -> None:
    finder = doctest.DocTestFinder()
    examples = [test.name for test in finder.find(llmflow) if test.examples]
    assert {"llmflow.LLM", "llmflow.Node", "llmflow.AsyncParallelBatchNode"} <= set(examples)
