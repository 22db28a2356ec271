"""Anthropic's messages dialect of the simulated provider."""
