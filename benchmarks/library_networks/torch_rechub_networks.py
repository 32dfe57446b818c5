"""later."""
NETWORKS = {}
