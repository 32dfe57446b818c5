"""The commands that need the training or conversion extras."""
