"""Many items at once: sources, slots, the runner, and its idle signal."""
