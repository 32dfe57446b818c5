"""Training: the loop, and the phases that cut, refit, shift and round tables."""
