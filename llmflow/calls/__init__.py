"""A call, step by step: how a request gets its answer."""
