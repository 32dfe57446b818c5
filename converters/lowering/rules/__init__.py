"""What replaces an operator: one small function for each, grouped by kind."""
