"""One experiment for each question about what the methods really do."""
