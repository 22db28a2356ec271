"""Test helpers for programs with llmflow: virtual time, scripted provider.

Public: import from here, not from the modules below.
"""

from llmflow.testing.scripted import ScriptedProvider
from llmflow.testing.virtual_time import VirtualLoop, run_virtual

__all__ = ["ScriptedProvider", "VirtualLoop", "run_virtual"]
