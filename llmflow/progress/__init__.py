"""What is shown of work while it goes on: one picture for commands and for Python."""
