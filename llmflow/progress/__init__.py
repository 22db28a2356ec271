"""Progress displays, shared by commands and Python runs."""
