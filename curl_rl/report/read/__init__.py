"""What a report reads: runs and published results."""
