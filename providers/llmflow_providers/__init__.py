"""Providers, one file each. They know `llmflow.provider` and `llmflow.types`, nothing above."""
