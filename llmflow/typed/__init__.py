"""Answers as data: output types and their JSON schemas."""
