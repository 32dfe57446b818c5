"""Dense layers: find them in a graph, calibrate them, absorb the rotations in front of them."""
