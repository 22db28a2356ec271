"""OpenAI's chat dialect of the simulated provider."""
