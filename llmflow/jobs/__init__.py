"""The engine of ``llmflow run``: jobs, plans, progress and reports."""
