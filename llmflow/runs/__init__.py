"""Runs: answers, budget and counts that survive a process, and their catalog."""
