"""Power losses: what a process does to files is recorded, and what it may leave is replayed."""
