"""Makes the batch the first axis of every value of a graph."""
