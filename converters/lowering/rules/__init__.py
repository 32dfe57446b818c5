"""Rules that express operators by others, in a file for each family."""
