"""The command line. It knows everything below; nothing knows it."""
