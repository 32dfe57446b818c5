"""The engine for browsers and Node: what builds it, and the live page."""
