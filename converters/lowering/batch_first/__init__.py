"""The pass that makes the batch the first axis of every value of a graph."""
