"""What must outlive or explain a run: the job itself, its progress and its report."""
