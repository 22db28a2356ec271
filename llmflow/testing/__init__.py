"""What tests of programs that use llmflow need: virtual time and a scripted provider.

Public: import from here, not from the modules below.
"""

from llmflow.testing.scripted import ScriptedProvider
from llmflow.testing.virtual_time import VirtualLoop, run_virtual

__all__ = ["ScriptedProvider", "VirtualLoop", "run_virtual"]
