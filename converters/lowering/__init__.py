"""Rewrites a graph to the operators that the native and TFLite targets run."""
