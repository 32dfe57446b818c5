"""PyTorch embedding layers, reference networks, training and data."""
