"""Admission in virtual time: the real `Admission` against a strict provider of our own.

``python -m benchmarks.harness`` runs it through random settings and prints how long it took
compared to a client that knows everything; see ``benchmarks/README.md``.
"""
