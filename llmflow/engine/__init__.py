"""What drives nodes and flows: the graph, attempts, slots, and the pool of workers."""
