"""The runtimes behind one interface."""
