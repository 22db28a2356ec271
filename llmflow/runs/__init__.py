"""What outlives a process: a run's answers, its budget and its counts, and the list of runs."""
