"""Ways to get a `Response` for a `Request`."""
