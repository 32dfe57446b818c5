"""PyTorch layers: embedding tables of every scheme, masks, rounding, interactions."""
