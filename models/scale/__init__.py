"""Statistics, encoding and scoring of logs in parts, by one process or by workers on a cluster."""
