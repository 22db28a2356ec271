"""Progress display, the same for commands and for Python."""
