"""Read and write configs; what the command-line tools share."""
