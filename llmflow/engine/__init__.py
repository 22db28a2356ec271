"""Engine of nodes and flows: graph, attempts, slots and pool."""
