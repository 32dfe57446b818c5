"""Dense layers: found in the graph, calibrated, joined with the rotations in front of them."""
