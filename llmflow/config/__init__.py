"""Quotas, policies, prices, addresses, key names and more from a file, ``llmflow.toml``.

>>> from llmflow.config import Config, load_config, use_config
>>> load_config().settings("openai/gpt-6-luna").quota  # doctest: +SKIP
{'rpm': 5000.0, 'tpm': 2000000.0}

What is given in code or on the command line wins over the file, and the file
over what a provider assumes by itself.
"""

from llmflow.config.files import find_config, forget_configs, load_config, use_config
from llmflow.config.settings import Config, JournalSettings, Settings

__all__ = [
    "Config",
    "JournalSettings",
    "Settings",
    "find_config",
    "forget_configs",
    "load_config",
    "use_config",
]
