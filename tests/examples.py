"""The number of examples that a property test tries.

They are the same in every run, so that a change is judged by what it changed. A run of the
`unit` tests tries a quarter of them; `--hypothesis-profile=search` tries ten times as many new
ones.
"""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says how busy the machine is: no deadline.
settings.register_profile("same-examples", deadline=None, derandomize=True)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("same-examples")


def try_few() -> None:
    """Have every property test try a quarter of its examples."""
    settings.load_profile("quick")


def examples(count: int) -> settings:
    """Return settings for a test that tries so many, where others try a hundred."""
    return settings(max_examples=count * settings.default.max_examples // 100)
