"""The search for the best model within a budget: sizes, probes, trials, frontier."""
